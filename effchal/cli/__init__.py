"""The effchal program: what was typed, the config it stands for, help, errors of one line."""
