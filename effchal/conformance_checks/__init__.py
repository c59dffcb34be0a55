"""Every rule of what a server must speak, as a check that any server can be asked."""
