"""A discrete-event simulation of many replicas: which routing and which autoscaling serve a load, on paper."""
