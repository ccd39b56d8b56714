//! Lets only those through whom the node's rules admit: addresses before anything is sent there or answered, names after
//! the handshake.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::{DialOpts, ListenerId, PortUse, TransportError, TransportEvent};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
    dummy,
};
use libp2p::{Multiaddr, PeerId, Transport};

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
        if admits(&self.admission, addr) { Ok(()) } else { Err(ConnectionDenied::new(NotAdmitted)) }
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

fn admits(admission: &Admission, addr: &Multiaddr) -> bool {
    socket_addr(addr).is_some_and(|addr| admission.admits_address(addr.ip()))
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

/// A transport that dials nowhere but where the rules admit. The gate itself cannot see to that: Kademlia adds addresses
/// to a dial that other nodes told, and no other behaviour is asked about them.
pub(super) struct Fenced<T> {
    transport: T,
    admission: Arc<Admission>,
}

impl<T> Fenced<T> {
    pub(super) fn new(transport: T, admission: Arc<Admission>) -> Self {
        Self { transport, admission }
    }
}

impl<T: Transport<Error = io::Error> + Unpin> Transport for Fenced<T> {
    type Output = T::Output;
    type Error = T::Error;
    type ListenerUpgrade = T::ListenerUpgrade;
    type Dial = T::Dial;

    fn listen_on(&mut self, id: ListenerId, addr: Multiaddr) -> Result<(), TransportError<Self::Error>> {
        self.transport.listen_on(id, addr)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.transport.remove_listener(id)
    }

    fn dial(&mut self, addr: Multiaddr, opts: DialOpts) -> Result<Self::Dial, TransportError<Self::Error>> {
        if !admits(&self.admission, &addr) {
            return Err(TransportError::Other(io::Error::new(io::ErrorKind::PermissionDenied, NotAdmitted)));
        }
        self.transport.dial(addr, opts)
    }

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        Pin::new(&mut self.get_mut().transport).poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use libp2p::tcp;

    use super::*;

    #[tokio::test]
    async fn nothing_is_dialled_that_the_rules_do_not_admit_whoever_told_the_address() {
        let rules = Admission { deny: vec!["10.6.0.0/16".parse().unwrap()], ..Admission::default() };
        let mut fenced = Fenced::new(tcp::tokio::Transport::new(tcp::Config::default()), Arc::new(rules));
        for (addr, admitted) in [
            ("/ip4/10.1.0.1/tcp/7", true),
            ("/ip6/fd00::1/tcp/7", true),
            ("/ip4/10.6.0.1/tcp/7", false),
            ("/ip4/8.8.8.8/tcp/7", false),
            ("/ip6/2001:db8::1/tcp/7", false),
            ("/dns/somewhere.test/tcp/7", false),
        ] {
            let opts = DialOpts { role: Endpoint::Dialer, port_use: PortUse::New };
            assert_eq!(fenced.dial(addr.parse().unwrap(), opts).is_ok(), admitted, "{addr}");
        }
    }
}
