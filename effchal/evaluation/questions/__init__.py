"""Questions of a user's own files: read, asked and graded."""
