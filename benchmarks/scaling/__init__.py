"""A discrete-event simulation of routing and autoscaling policies for many replicas."""
