"""A production service: an agent of parallel rollouts behind FastAPI, on PostgreSQL; `python -m graphs.service`."""
