"""`doorstep <verb>`; each verb is a module with `add_arguments` and `run`."""
