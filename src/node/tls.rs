//! TLS between neighbours: version 1.3 only, both sides proven by libp2p's certificates.
//!
//! The configuration is our own because libp2p's prefers ChaCha20 everywhere and honours `SSLKEYLOGFILE`. There is no
//! resumption (sessions live long) and no post-quantum key exchange (it costs handshakes, and chunks are no secret).

use std::sync::Arc;

use libp2p_tls::certificate;
use proto::{NodeId, VERSION};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};

use super::identity::{Identity, node_id_of};

/// Sessions of another protocol version end in the handshake, and those between a node with a network key and one
/// without. It keeps nobody out; what does is [`super::membership`].
fn protocol(keyed: bool) -> Vec<u8> {
    format!("caswarm/{VERSION}{}", if keyed { "+key" } else { "" }).into_bytes()
}

/// The certificate and settings of one node, for sessions that it opens and that it accepts. Cheap to clone.
#[derive(Debug, Clone)]
pub struct TlsConfigs {
    /// For sessions that it opens.
    pub client: Arc<ClientConfig>,
    /// For sessions that it accepts.
    pub server: Arc<ServerConfig>,
    /// The node that they prove.
    pub node: NodeId,
}

/// The certificate could not be made.
#[derive(Debug, thiserror::Error)]
#[error("making this node's certificate: {0}")]
pub struct TlsConfigError(String);

impl TlsConfigs {
    /// Makes a certificate for `identity`, fresh for this run.
    pub fn new(identity: &Identity) -> Result<Self, TlsConfigError> {
        let failed = |e: &dyn std::fmt::Display| TlsConfigError(e.to_string());
        let (certificate, key) = certificate::generate(identity.keypair()).map_err(|e| failed(&e))?;
        let provider = Arc::new(provider());
        let verifier = Arc::new(PeerVerifier);
        let key = provider.key_provider.load_private_key(key).map_err(|e| failed(&e))?;
        // Given whole, because rustls would look at it with webpki, which refuses libp2p's critical extension.
        let own = Arc::new(SingleCertAndKey::from(CertifiedKey::new(vec![certificate], key)));

        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| failed(&e))?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone())
            .with_client_cert_resolver(own.clone());
        client.alpn_protocols = vec![protocol(false)];
        client.resumption = Resumption::disabled();
        client.enable_sni = false;

        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| failed(&e))?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(own);
        server.alpn_protocols = vec![protocol(false)];
        server.send_tls13_tickets = 0;

        Ok(Self { client: Arc::new(client), server: Arc::new(server), node: identity.node_id() })
    }

    /// The same for a network with a key.
    pub fn keyed(mut self) -> Self {
        Arc::make_mut(&mut self.client).alpn_protocols = vec![protocol(true)];
        Arc::make_mut(&mut self.server).alpn_protocols = vec![protocol(true)];
        self
    }
}

/// The node that a verified certificate belongs to; `None` for a key that is not ed25519.
pub(crate) fn node_of(certificates: Option<&[CertificateDer<'_>]>) -> Option<NodeId> {
    let certificate = certificates?.first()?;
    node_id_of(certificate::parse(certificate).ok()?.peer_id())
}

fn provider() -> CryptoProvider {
    use aws_lc_rs::cipher_suite::{TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256};
    let mut suites = vec![TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384];
    suites.insert(if aes_in_hardware() { 2 } else { 0 }, TLS13_CHACHA20_POLY1305_SHA256);
    CryptoProvider {
        cipher_suites: suites,
        kx_groups: vec![aws_lc_rs::kx_group::X25519],
        ..aws_lc_rs::default_provider()
    }
}

fn aes_in_hardware() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    return std::arch::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

/// Accepts whoever proves to hold the key that the certificate names; which key that may be is the session's to check.
#[derive(Debug)]
struct PeerVerifier;

fn verify_certificate(
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) -> Result<(), rustls::Error> {
    if !intermediates.is_empty() {
        return Err(rustls::Error::General("more than one certificate".into()));
    }
    certificate::parse(end_entity).map_err(|_| CertificateError::BadEncoding)?;
    Ok(())
}

fn verify_signature(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    certificate::parse(certificate)
        .map_err(|_| CertificateError::BadEncoding)?
        .verify_signature(signed.scheme, message, signed.signature())
        .map_err(|_| CertificateError::BadSignature)?;
    Ok(HandshakeSignatureValid::assertion())
}

fn schemes() -> Vec<SignatureScheme> {
    vec![SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ED25519]
}

fn tls12() -> rustls::Error {
    rustls::Error::General("TLS 1.2 is not spoken here".into())
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        verify_certificate(end_entity, intermediates)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        verify_certificate(end_entity, intermediates)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}
