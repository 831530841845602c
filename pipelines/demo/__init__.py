"""The demo: a small web on loopback with planted truth, taken all the way to a registered model."""
