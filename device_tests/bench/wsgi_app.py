"""The application for a WSGI server of one's own: `DOORSTEP_BUNDLE=… gunicorn wsgi_app:app`."""

import os

from doorstep import Predictor
from doorstep.serve import create_app

_predictor = Predictor.load(os.environ["DOORSTEP_BUNDLE"])
app = create_app({_predictor.manifest.name: _predictor})
