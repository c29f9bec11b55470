//! What a store on etcd is told, and the connections that are made of it.

use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::str::FromStr;
use std::time::Duration;

use atoll_runtime::Tasks;
use http::Uri;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint as Target, Identity};

use super::client::Endpoint;
use crate::StoreError;

/// To open a connection, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How often a connection in use is asked for a sign of life. etcd ends those that
/// ask more often than every 5 s (`--grpc-keepalive-min-time`).
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// What etcd may send of one watch, and of all of them, before it is read. Many
/// watches that nobody reads must not hold up another.
const WATCH_WINDOW_BYTES: u32 = 256 * 1_024;
const WATCHES_WINDOW_BYTES: u32 = 16 * 1_024 * 1_024;
/// Longest file of certificates or keys; a bundle of all public authorities is a
/// quarter of it.
const PEM_BYTES_MAX: u64 = 1_024 * 1_024;

/// How to reach etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Its members; never empty. The first that answers is used.
    pub endpoints: Vec<Address>,
    /// Before each key; a `/` is added when it does not end with one.
    pub prefix: String,
    /// For `https` endpoints.
    pub tls: Tls,
    /// When etcd asks for one.
    pub login: Option<Login>,
    /// Which keys are kept in memory as well, by what they begin with: they can be read
    /// while etcd is away ([`crate::Store::read`]). Up to 256 MiB of each; beyond that,
    /// they are not kept and a warning says so.
    pub mirrored: Vec<String>,
}

/// Files, in PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Whose certificates are believed; by default those that the system believes.
    pub ca: Option<PathBuf>,
    /// What we show, and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// A user of etcd's.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// Name.
    pub username: String,
    /// Never shown.
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("username", &self.username)
            .field("password", &"***")
            .finish()
    }
}

/// `http://HOST:PORT` or `https://HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address(Uri);

impl Address {
    /// Whether only this machine can be meant.
    pub fn is_loopback(&self) -> bool {
        let host = self.0.host().unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let ip = bare.parse::<std::net::IpAddr>();
        host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
    }

    /// Whether it is spoken to with TLS.
    pub fn is_https(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(raw: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{raw}` is no address of etcd; write `http://HOST:2379` or `https://HOST:2379`"
            )
        };
        // Before the text is shown: there may be a password in it.
        if raw.contains('@') {
            return Err(
                "a user does not belong into the address; use `username` and `password`".to_owned(),
            );
        }
        let uri = raw.parse::<Uri>().map_err(|_| wrong())?;
        let scheme = matches!(uri.scheme_str(), Some("http" | "https"));
        let authority = uri.authority().ok_or_else(wrong)?;
        let bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
        if !(scheme && bare && authority.port_u16().is_some_and(|port| port > 0)) {
            return Err(wrong());
        }
        Ok(Self(uri))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.to_string().trim_end_matches('/'))
    }
}

/// Has the tasks of a connection run, and end, with the store's group.
struct InGroup(Tasks);

impl hyper::rt::Executor<Pin<Box<dyn Future<Output = ()> + Send>>> for InGroup {
    fn execute(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        let stop = self.0.stop_signal();
        // Its end is what the group waits for; there is no result.
        drop(
            self.0
                .once("connection", async move { stop.unless(task).await }),
        );
    }
}

/// The connections to each endpoint, none of them made yet.
pub(crate) async fn endpoints(
    options: &Options,
    tasks: &Tasks,
) -> Result<Vec<Endpoint>, StoreError> {
    if options.endpoints.is_empty() {
        return Err(StoreError::Unavailable("no endpoint is set".to_owned()));
    }
    let tls = match options.endpoints.iter().any(Address::is_https) {
        true => {
            let files = options.tls.clone();
            let read = tasks.blocking("etcd.tls", move || files.read());
            Some(read.await.map_err(|_| StoreError::Closed)??)
        }
        false => None,
    };
    let endpoints = options.endpoints.iter();
    endpoints
        .map(|address| {
            let mut target = Target::from(address.0.clone())
                .executor(InGroup(tasks.clone()))
                .connect_timeout(CONNECT_TIMEOUT)
                .tcp_nodelay(true)
                .http2_keep_alive_interval(PING_EVERY)
                .keep_alive_timeout(PING_TIMEOUT);
            if let Some(tls) = tls.as_ref().filter(|_| address.is_https()) {
                let set = target.tls_config(tls.clone());
                target = set.map_err(|error| options.tls.unusable(&error))?;
            }
            let history = target
                .clone()
                .initial_stream_window_size(WATCH_WINDOW_BYTES)
                .initial_connection_window_size(WATCHES_WINDOW_BYTES);
            Ok(Endpoint {
                name: address.to_string(),
                calls: target.connect_lazy(),
                history: history.connect_lazy(),
            })
        })
        .collect()
}

impl Tls {
    fn read(&self) -> Result<ClientTlsConfig, StoreError> {
        let config = ClientTlsConfig::new();
        let mut config = match &self.ca {
            Some(ca) => config.ca_certificate(Certificate::from_pem(read_pem(ca)?)),
            None => config.with_native_roots(),
        };
        if let Some((cert, key)) = &self.identity {
            config = config.identity(Identity::from_pem(read_pem(cert)?, read_pem(key)?));
        }
        Ok(config)
    }

    fn unusable(&self, error: &tonic::transport::Error) -> StoreError {
        let cause = std::error::Error::source(error);
        let detail = cause.map_or_else(|| error.to_string(), ToString::to_string);
        let cert = self.identity.as_ref().map(|(cert, _)| cert);
        let path = cert.or(self.ca.as_ref()).cloned();
        StoreError::Open {
            doing: "use the certificates of",
            path: path.unwrap_or_else(|| "the system".into()),
            detail,
        }
    }
}

/// A file that holds PEM, as far as can be seen: otherwise an authority that is none
/// would only show as connections that are refused.
fn read_pem(path: &Path) -> Result<Vec<u8>, StoreError> {
    let wrong = |detail: String| StoreError::Open {
        doing: "read",
        path: path.to_owned(),
        detail,
    };
    let mut read = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| wrong(error.to_string()))?;
    std::io::Read::read_to_end(&mut std::io::Read::take(file, PEM_BYTES_MAX + 1), &mut read)
        .map_err(|error| wrong(error.to_string()))?;
    if read.len() as u64 > PEM_BYTES_MAX {
        return Err(wrong(format!("it is longer than {PEM_BYTES_MAX} bytes")));
    }
    let begins = read.windows(11).any(|bytes| bytes == b"-----BEGIN ");
    match begins {
        true => Ok(read),
        false => Err(wrong(
            "it is not PEM: no line begins with -----BEGIN".to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_of_one_form() {
        for good in [
            "http://127.0.0.1:2379",
            "https://[::1]:2379",
            "http://etcd:2379",
        ] {
            let address: Address = good.parse().unwrap();
            assert_eq!(address.to_string(), good);
            assert_eq!(address.is_https(), good.starts_with("https"));
        }
        let loopback = |raw: &str| raw.parse::<Address>().unwrap().is_loopback();
        assert!(loopback("http://localhost:1") && loopback("http://[::1]:1"));
        assert!(loopback("http://127.0.0.1:1") && !loopback("http://10.0.0.1:1"));
        let slash: Address = "http://etcd:2379/".parse().unwrap();
        assert_eq!(slash.to_string(), "http://etcd:2379");
        for bad in [
            "127.0.0.1:2379",
            "etcd",
            "ftp://etcd:2379",
            "http://etcd",
            "http://etcd:0",
            "http://etcd:2379/v3",
            "http://etcd:2379?a",
            "http://me:word@etcd:2379",
            "",
        ] {
            let error = bad.parse::<Address>().unwrap_err();
            assert!(!error.contains("word@"), "{error}");
        }
    }

    #[test]
    fn a_password_is_not_shown() {
        let login = Login {
            username: "me".to_owned(),
            password: "hush".to_owned(),
        };
        assert!(!format!("{login:?}").contains("hush"));
    }
}
