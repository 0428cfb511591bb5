"""Names of runs and models as folders of reports, the aliases of promotion in MLflow, and outputs of previous runs."""
