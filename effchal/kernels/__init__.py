"""Code that exists for speed alone. README.md: what each module buys, where, and its plain twin."""
