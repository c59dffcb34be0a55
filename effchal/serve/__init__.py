"""The server: gunicorn 'effchal.serve:create_app()' or python -m effchal.serve bundle=..."""

from effchal.serve.app import create_app

__all__ = ["create_app"]
