"""Code that exists for speed. Each module names its plain twin in the tests and the hardware that it pays on."""
