"""``python -m hfcnn`` is ``hfcnn``."""

from hfcnn.cli import app

app()
