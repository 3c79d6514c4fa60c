"""The demonstration: small health services with synthetic records, and the processes that run them behind a gateway.

Nothing of the gateway imports this package. `stack` starts and ends the services, `services` is one of them (`python -m
gateway.demo.services patients`), `synthesis` makes the records, and `gateway.yaml` is the configuration that the demonstration
starts with.
"""
