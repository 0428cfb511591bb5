"""Names of runs and models as folders of reports, and the aliases of promotion in MLflow."""
