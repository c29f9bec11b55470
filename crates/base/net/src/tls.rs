//! TLS of outgoing connections.
//!
//! Peers are trusted as the machine trusts them ([`Connector::system`]); whoever asks
//! may choose the name that a certificate must bear, or not to verify it at all. Client
//! certificates are not sent.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Makes TLS of TCP connections. Cheap to clone; clones share the sessions that can be
/// taken up again.
#[derive(Clone)]
pub struct Connector {
    /// None when nobody is trusted: then only unverified connections can be made.
    verified: Option<Arc<ClientConfig>>,
    unverified: Arc<ClientConfig>,
}

/// How a peer is spoken to over TLS.
#[derive(Clone, Debug)]
pub struct Tls<'a> {
    /// With whose trust.
    pub connector: &'a Connector,
    /// The name that is asked for (SNI) and that the certificate must bear; an IP
    /// address is none that is asked for, but the certificate must bear it all the same.
    pub name: &'a str,
    /// Whether the certificate is looked at.
    pub verify: bool,
    /// The protocol that the peer must agree to (ALPN); `None` leaves it out.
    pub protocol: Option<&'a [u8]>,
}

impl Connector {
    /// Trusts whom the machine trusts. Reads files, so it belongs on a thread that may
    /// block. A certificate that cannot be used is left out.
    ///
    /// # Errors
    /// When rustls cannot be set up.
    pub fn system() -> io::Result<Self> {
        Self::trusting(rustls_native_certs::load_native_certs().certs)
    }

    /// Trusts these authorities and no other.
    ///
    /// # Errors
    /// When rustls cannot be set up.
    pub fn trusting(
        authorities: impl IntoIterator<Item = CertificateDer<'static>>,
    ) -> io::Result<Self> {
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(authorities);
        let begin = || {
            ClientConfig::builder_with_provider(Arc::clone(&provider))
                .with_safe_default_protocol_versions()
                .map_err(io::Error::other)
        };
        let verified = if roots.is_empty() {
            None
        } else {
            let verifier =
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
            let verifier = verifier.build().map_err(io::Error::other)?;
            let config = begin()?.with_webpki_verifier(verifier);
            Some(Arc::new(config.with_no_client_auth()))
        };
        let anybody = Arc::new(Anybody(Arc::clone(&provider)));
        let unverified = begin()?
            .dangerous()
            .with_custom_certificate_verifier(anybody)
            .with_no_client_auth();
        Ok(Self {
            verified,
            unverified: Arc::new(unverified),
        })
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let trusts = self.verified.is_some();
        f.debug_struct("Connector")
            .field("trusts", &trusts)
            .finish_non_exhaustive()
    }
}

impl Tls<'_> {
    /// Speaks TLS over `stream`.
    ///
    /// # Errors
    /// When the peer speaks no TLS, is not trusted, or not under this name, or does not
    /// agree to the protocol.
    pub async fn over(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let config = match (self.verify, &self.connector.verified) {
            (false, _) => &self.connector.unverified,
            (true, Some(verified)) => verified,
            (true, None) => {
                let text = "this machine has no certificates of authorities (install ca-certificates), so none can be verified";
                return Err(io::Error::other(text));
            }
        };
        let config = match self.protocol {
            None => Arc::clone(config),
            Some(protocol) => {
                let mut config = ClientConfig::clone(config);
                config.alpn_protocols = vec![protocol.to_vec()];
                Arc::new(config)
            }
        };
        let name = ServerName::try_from(self.name.to_owned()).map_err(|_| {
            let text = format!("`{}` is no name that a certificate can bear", self.name);
            io::Error::new(io::ErrorKind::InvalidInput, text)
        })?;
        let stream = TlsConnector::from(config).connect(name, stream).await?;
        let agreed = stream.get_ref().1.alpn_protocol();
        match self.protocol {
            Some(protocol) if agreed != Some(protocol) => Err(io::Error::other(format!(
                "the peer does not speak {}",
                String::from_utf8_lossy(protocol)
            ))),
            _ => Ok(stream),
        }
    }
}

/// Takes any certificate, but still wants the peer to have its key.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use rustls::ServerConfig;
    use rustls::pki_types::PrivateKeyDer;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// An authority and a server's certificate from it for `localhost`.
    fn certificates() -> (CertificateDer<'static>, ServerConfig) {
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let authority = CertifiedIssuer::self_signed(authority, key).unwrap();
        let key = KeyPair::generate().unwrap();
        let server = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let server = server.signed_by(&key, &authority).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![server.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        (authority.der().clone(), config)
    }

    /// What comes of asking a server that answers with one byte.
    async fn ask(
        server: ServerConfig,
        connector: &Connector,
        edit: impl FnOnce(&mut Tls<'_>),
    ) -> io::Result<u8> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let serve = async {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = TlsAcceptor::from(Arc::new(server));
            if let Ok(mut stream) = acceptor.accept(stream).await {
                stream.write_all(b"!").await.unwrap();
                stream.shutdown().await.ok();
            }
        };
        let mut tls = Tls {
            connector,
            name: "localhost",
            verify: true,
            protocol: None,
        };
        edit(&mut tls);
        let client = async {
            let stream = TcpStream::connect(at).await.unwrap();
            tls.over(stream).await?.read_u8().await
        };
        tokio::join!(serve, client).1
    }

    #[tokio::test]
    async fn who_is_trusted_under_the_name_is_spoken_to() {
        let (authority, server) = certificates();
        let connector = Connector::trusting([authority]).unwrap();
        let byte = ask(server.clone(), &connector, |_| {}).await.unwrap();
        assert_eq!(byte, b'!');
        let agreed = ask(server, &connector, |tls| tls.protocol = Some(b"h2")).await;
        assert_eq!(agreed.unwrap(), b'!');
    }

    #[tokio::test]
    async fn a_wrong_name_and_an_unknown_authority_are_refused_unless_nobody_looks() {
        let (authority, server) = certificates();
        let connector = Connector::trusting([authority]).unwrap();
        let wrong = ask(server.clone(), &connector, |tls| tls.name = "example.org").await;
        let wrong = wrong.unwrap_err().to_string();
        assert!(wrong.contains("certificate"), "{wrong}");
        let (other, _) = certificates();
        let stranger = Connector::trusting([other]).unwrap();
        assert!(ask(server.clone(), &stranger, |_| {}).await.is_err());
        let nobody = Connector::trusting([]).unwrap();
        let refused = ask(server.clone(), &nobody, |_| {}).await.unwrap_err();
        assert!(refused.to_string().contains("ca-certificates"), "{refused}");
        let anybody = |tls: &mut Tls<'_>| {
            tls.verify = false;
            tls.name = "127.0.0.1";
        };
        assert_eq!(ask(server, &nobody, anybody).await.unwrap(), b'!');
    }
}
