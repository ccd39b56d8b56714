//! DNS names that stand for nodes to start from: SRV records of `_caswarm._tcp.NAME`, and libp2p's `dnsaddr` TXT records
//! of `_dnsaddr.NAME`. Asked anew each time: what a name stands for changes.

use std::collections::VecDeque;

use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::RData;

use super::address::{ADDRESSES, PeerAddress};
use crate::source;

/// Names that a `dnsaddr` record may lead to, one after the other.
const NAMES: usize = 8;

/// The nodes behind a name, in the order to try them, [`ADDRESSES`] at most.
///
/// # Errors
/// A sentence for people, when there is none.
pub(super) async fn nodes_behind(name: &str) -> Result<Vec<PeerAddress>, String> {
    let resolver = TokioResolver::builder_tokio().and_then(|builder| builder.build());
    let resolver = resolver.map_err(|error| format!("no name server can be asked: {error}"))?;
    let (services, addresses) = tokio::join!(services(&resolver, name), dnsaddrs(&resolver, name));
    let (mut nodes, said) = match (services, addresses) {
        (Ok(services), Ok(addresses)) => ([services, addresses].concat(), String::new()),
        (Ok(nodes), Err(_)) | (Err(_), Ok(nodes)) => (nodes, String::new()),
        (Err(service), Err(address)) => (Vec::new(), format!("; {service}; {address}")),
    };
    nodes.truncate(ADDRESSES);
    if nodes.is_empty() {
        return Err(format!("the name has neither SRV records at _caswarm._tcp nor TXT records at _dnsaddr{said}"));
    }
    Ok(nodes)
}

/// By priority, those of one priority in random order.
async fn services(resolver: &TokioResolver, name: &str) -> Result<Vec<PeerAddress>, String> {
    let found = resolver.srv_lookup(format!("_caswarm._tcp.{name}")).await.map_err(|error| error.to_string())?;
    let services = found.answers().iter().filter_map(|record| match &record.data {
        // The root stands for "there is no such service".
        RData::SRV(service) if !service.target.is_root() && service.port != 0 => Some(service),
        _ => None,
    });
    let mut services: Vec<_> = services.map(|service| (service.priority, source::random(), service)).collect();
    services.sort_unstable_by_key(|(priority, chance, _)| (*priority, *chance));
    let node = |target: String, port| PeerAddress { host: target.trim_end_matches('.').to_owned(), port, node: None };
    Ok(services.into_iter().map(|(_, _, service)| node(service.target.to_utf8(), service.port)).collect())
}

async fn dnsaddrs(resolver: &TokioResolver, name: &str) -> Result<Vec<PeerAddress>, String> {
    let (mut names, mut asked, mut nodes) = (VecDeque::from([name.to_owned()]), 0, Vec::new());
    let mut failed = None;
    while let Some(name) = names.pop_front().filter(|_| asked < NAMES && nodes.len() < ADDRESSES) {
        asked += 1;
        let found = match resolver.txt_lookup(format!("_dnsaddr.{name}")).await {
            Ok(found) => found,
            Err(error) => {
                failed = Some(error.to_string());
                continue;
            }
        };
        for record in found.answers() {
            let RData::TXT(text) = &record.data else { continue };
            let text = text.txt_data.concat();
            let Some(text) = std::str::from_utf8(&text).ok().and_then(|text| text.strip_prefix("dnsaddr=")) else {
                continue;
            };
            match text.strip_prefix("/dnsaddr/") {
                Some(next) => names.extend(next.split('/').next().map(str::to_owned)),
                None => nodes.extend(text.parse::<PeerAddress>()),
            }
        }
    }
    if nodes.is_empty() { Err(failed.unwrap_or_else(|| "no usable dnsaddr record".into())) } else { Ok(nodes) }
}
