//! The registry that is copied from, as far as both kinds are alike: its URL, who we
//! are to it, and what its refusals mean to a person.

use std::time::Duration;

use anyhow::{Context as _, bail};
use atoll_consul::copying::base64;
use atoll_model::Address;
use atoll_net::client::{self, Response};
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, HeaderValue};
use http::{HeaderMap, StatusCode};
use percent_encoding::percent_decode_str;

/// Largest list of a source: some 100,000 instances, or all keys.
const LIST_BYTES_MAX: usize = 256 << 20;
/// For an answer that need not be waited for.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// The kinds of registries that can be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Eureka,
    Consul,
}

impl Kind {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Eureka => "eureka",
            Self::Consul => "consul",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Eureka => "Eureka",
            Self::Consul => "Consul",
        }
    }

    fn port(self) -> u16 {
        match self {
            Self::Eureka => 8761,
            Self::Consul => 8500,
        }
    }
}

/// A running registry.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) kind: Kind,
    address: Address,
    /// What stands before each path.
    base: String,
    headers: HeaderMap,
    /// `dc=` of each query, when given.
    datacenter: Option<String>,
    /// Its URL without secrets.
    pub(super) shown: String,
}

impl Source {
    /// The one at `url`.
    ///
    /// # Errors
    /// What is wrong with the URL and how to write it.
    pub(super) fn parse(kind: Kind, url: &str) -> anyhow::Result<Self> {
        let example = format!("http://HOST:{}", kind.port());
        if url.starts_with("https://") {
            bail!(
                "{} cannot be read over TLS yet: give the URL of a plain http:// listener, or of a proxy on this machine that adds TLS",
                kind.name()
            );
        }
        let Some(rest) = url.strip_prefix("http://") else {
            bail!(
                "`{}` is no URL of a registry: write it as {example}",
                without_secrets(url)
            );
        };
        let rest = rest.split(['?', '#']).next().unwrap_or_default();
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        let ported = host
            .rsplit_once(':')
            .is_some_and(|(_, port)| !port.ends_with(']'));
        let address: Address = match ported {
            true => host.parse(),
            false => format!("{host}:{}", kind.port()).parse(),
        }
        .with_context(|| format!("`{host}` in the URL: write it as {example}"))?;
        let path = path.trim_end_matches('/');
        let base = match (kind, path) {
            (Kind::Eureka, "") => "/eureka",
            (Kind::Eureka, path) => path.strip_suffix("/apps").unwrap_or(path),
            (Kind::Consul, path) => path.strip_suffix("/v1").unwrap_or(path),
        };
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(user) = user {
            let plain: Vec<u8> = percent_decode_str(user).collect();
            let basic = format!("Basic {}", base64(&plain));
            let mut basic = HeaderValue::try_from(basic)?;
            basic.set_sensitive(true);
            headers.insert(AUTHORIZATION, basic);
        }
        Ok(Self {
            kind,
            shown: format!("http://{address}{base}"),
            base: base.to_owned(),
            address,
            headers,
            datacenter: None,
        })
    }

    /// Asks with a token of Consul's.
    pub(super) fn with_token(mut self, token: &str) -> anyhow::Result<Self> {
        let mut token =
            HeaderValue::try_from(token).context("the token holds characters that no token has")?;
        token.set_sensitive(true);
        self.headers.insert("x-consul-token", token);
        Ok(self)
    }

    /// Asks for another of Consul's datacenters than its own.
    pub(super) fn of_datacenter(mut self, datacenter: &str) -> Self {
        self.datacenter = Some(datacenter.to_owned());
        self
    }

    /// GET of a list.
    pub(super) async fn list(&self, path: &str) -> anyhow::Result<Bytes> {
        let response = self.get(path, ANSWER_WITHIN).await?;
        self.accept(&response)?;
        Ok(response.body)
    }

    /// GET, whatever the answer is.
    pub(super) async fn get(&self, path: &str, within: Duration) -> anyhow::Result<Response> {
        let mut path = format!("{}{path}", self.base);
        if let Some(datacenter) = &self.datacenter {
            path.push(if path.contains('?') { '&' } else { '?' });
            path.push_str("dc=");
            path.extend(percent_encoding::utf8_percent_encode(
                datacenter,
                percent_encoding::NON_ALPHANUMERIC,
            ));
        }
        let request = client::Request {
            headers: self.headers.clone(),
            timeout: within,
            body_bytes_max: LIST_BYTES_MAX,
            ..client::Request::new(http::Method::GET, &self.address, &path)
        };
        let answer = request.send().await;
        answer.with_context(|| format!("{} at {}", self.kind.name(), self.shown))
    }

    /// Whether an answer is one of success.
    ///
    /// # Errors
    /// What its status means.
    pub(super) fn accept(&self, response: &Response) -> anyhow::Result<()> {
        let (status, shown) = (response.status, &self.shown);
        if status.is_success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&response.body);
        let said = said.lines().next().unwrap_or_default().trim();
        let said: String = said.chars().take(200).collect();
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            let mend = match self.kind {
                Kind::Eureka => "name user and password in the URL, http://USER:PASSWORD@HOST",
                Kind::Consul => {
                    "give a token with --token or $CONSUL_HTTP_TOKEN that may read services, nodes and keys"
                }
            };
            bail!(
                "{shown} refuses to be read ({status}{}): {mend}",
                colon(&said)
            );
        }
        bail!("{shown} answered {status}{}", colon(&said))
    }

    /// The error of a first question that failed, with what is there instead when that
    /// is a registry of the other kind.
    pub(super) async fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        let (other, base, path) = match self.kind {
            Kind::Eureka => (Kind::Consul, "", "/v1/status/leader"),
            Kind::Consul => (Kind::Eureka, "/eureka", "/apps"),
        };
        let probe = Self {
            kind: other,
            address: self.address.clone(),
            base: base.to_owned(),
            headers: self.headers.clone(),
            datacenter: None,
            shown: String::new(),
        };
        let answer = probe.get(path, Duration::from_secs(5)).await;
        let there = answer.is_ok_and(|answer| {
            answer.status.is_success()
                && match other {
                    Kind::Consul => answer.body.starts_with(b"\""),
                    Kind::Eureka => atoll_eureka::copying::read(&answer.body).is_ok(),
                }
        });
        if !there {
            return error;
        }
        anyhow::anyhow!(
            "{} is no {} but a {}: `atoll migrate {} http://{}{base}`",
            self.shown,
            self.kind.name(),
            other.name(),
            other.word(),
            self.address,
        )
    }
}

fn colon(said: &str) -> String {
    match said {
        "" => String::new(),
        said => format!(": {}", crate::paint::harmless(said)),
    }
}

fn without_secrets(url: &str) -> &str {
    url.rsplit_once('@').map_or(url, |(_, rest)| rest)
}
