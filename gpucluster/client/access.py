"""Namespaces, and tokens that open them."""

from __future__ import annotations

from gpucluster.client.calls import Call, Give, Items
from gpucluster.client.endpoints import Group, Many, One, OneWith, part
from gpucluster.client.sessions import D
from gpucluster.wire import access as wire
from gpucluster.wire.tasks import DeleteResponse


class Namespaces(Group[D]):
    """Namespaces."""

    @OneWith(wire.CreateNamespaceRequest)
    def create(self, body: wire.CreateNamespaceRequest) -> Call[wire.Namespace]:
        """Make a namespace."""
        return Call("POST", "/v1/namespaces", wire.Namespace, body)

    @Many
    def list(self) -> Items[wire.Namespace]:
        """List the namespaces that the token opens."""
        found = yield from self._session.ask(
            Call("GET", "/v1/namespaces", wire.ListNamespacesResponse)
        )
        for each in found.results:
            yield Give(each)


class Tokens(Group[D]):
    """Tokens: text of them is in the answers to `issue` and `rotate`, and nowhere else."""

    @OneWith(wire.CreateTokenRequest)
    def issue(self, body: wire.CreateTokenRequest) -> Call[wire.IssuedToken]:
        """Issue a token."""
        return Call("POST", "/v1/tokens", wire.IssuedToken, body)

    @OneWith(wire.RotateTokenRequest)
    def rotate(self, body: wire.RotateTokenRequest, token_id: str) -> Call[wire.IssuedToken]:
        """Give a token another secret; the one before works for a while."""
        return Call("POST", f"/v1/tokens/{part(token_id)}/rotate", wire.IssuedToken, body)

    @One
    def revoke(self, token_id: str) -> Call[DeleteResponse]:
        """Take a token back."""
        return Call("DELETE", f"/v1/tokens/{part(token_id)}", DeleteResponse)

    @Many
    def list(self) -> Items[wire.Token]:
        """List the tokens of the namespace; of all, for a token of all."""
        found = yield from self._session.ask(Call("GET", "/v1/tokens", wire.ListTokensResponse))
        for each in found.results:
            yield Give(each)
