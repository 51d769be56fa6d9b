"""Ray Serve's request router: identical prompts go where they are cached."""

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from deploy.ray.affinity import order, preferred


class PromptAffinityRouter(RequestRouter):  # type: ignore[misc]
    """Sends a request to its prompt's replica, or to the next in the prompt's order while that one is overloaded.

    The first argument of a call is the prompt's key, ``None`` for requests without one: the least loaded replica takes
    those. Loads are what this gateway knows of them, which several gateways only know in part.
    """

    def initialize_state(self, bound: float = 1.25) -> None:
        """``bound``: times the mean load that a replica may have and still get its prompts."""
        self._bound = bound

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Groups of replicas, each tried before the next."""
        if pending_request is not None:
            # Else the router asks again without a pause while all are full.
            pending_request.routing_context.should_backoff = True
        key = pending_request.args[0] if pending_request is not None and pending_request.args else None
        if key is None:
            return [candidate_replicas]
        replicas = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        known = self.replica_queue_len_cache
        loads = {name: known.get(replica.replica_id) or 0 for name, replica in replicas.items()}
        return [[replicas[name]] for name in preferred(order(key, replicas), loads, self._bound)]
