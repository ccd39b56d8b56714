//! Lets only those through whom the node's rules admit: addresses before a handshake, names after it.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
    dummy,
};
use libp2p::{Multiaddr, PeerId};

use super::addresses::socket_addr;
use crate::node::admission::Admission;
use crate::node::identity::node_id_of;

/// See the module.
pub(super) struct Gate {
    admission: Arc<Admission>,
}

/// Why a connection was refused.
#[derive(Debug, thiserror::Error)]
#[error("not admitted")]
struct NotAdmitted;

impl Gate {
    pub(super) fn new(admission: Arc<Admission>) -> Self {
        Self { admission }
    }

    fn address(&self, addr: &Multiaddr) -> Result<(), ConnectionDenied> {
        let admitted = socket_addr(addr).is_some_and(|addr| self.admission.admits_address(addr.ip()));
        if admitted { Ok(()) } else { Err(ConnectionDenied::new(NotAdmitted)) }
    }

    fn node(&self, peer: PeerId, addr: &Multiaddr) -> Result<THandler<Self>, ConnectionDenied> {
        self.address(addr)?;
        let admitted = socket_addr(addr).zip(node_id_of(peer));
        match admitted.is_some_and(|(addr, node)| self.admission.admits(node, addr.ip())) {
            true => Ok(dummy::ConnectionHandler),
            false => Err(ConnectionDenied::new(NotAdmitted)),
        }
    }
}

impl NetworkBehaviour for Gate {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        _: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.address(remote)?;
        let here = socket_addr(local).is_some_and(|addr| self.admission.is_reachable(addr.ip()));
        if here { Ok(()) } else { Err(ConnectionDenied::new(NotAdmitted)) }
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.node(peer, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: Option<PeerId>,
        addresses: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        addresses.iter().try_for_each(|addr| self.address(addr))?;
        Ok(Vec::new())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        addr: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.node(peer, addr)
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}
