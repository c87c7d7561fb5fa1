"""Chat models that always bring their log-probabilities, and the embedded model server."""
