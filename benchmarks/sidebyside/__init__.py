"""The gateway beside other gateways: the same backend, the same load, one core each, and what a request costs in CPU time."""
