//! Asks the Atoll that runs in a folder, over its admin API.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use atoll_console::wire;
use atoll_model::Address;
use atoll_net::client::{Lines, Request};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::up::RUN_FILE;

/// Longest answer: as many services and instances as one machine holds.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// The admin API of a running Atoll.
pub(super) struct Remote {
    address: Address,
    token: Option<HeaderValue>,
    folder: PathBuf,
}

/// What `.atoll/run.json` tells of a running Atoll.
pub(crate) struct Run {
    /// `HOST:PORT` by the listener's key in the file.
    pub(crate) listeners: Value,
    /// What changes need, when anything does.
    pub(crate) token: Option<String>,
}

impl Run {
    /// Reads the file in `data_dir`.
    pub(crate) fn read(data_dir: &Path) -> anyhow::Result<Self> {
        let path = data_dir.join(RUN_FILE);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(nobody(data_dir));
            }
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        let listeners: Value =
            serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
        let token = listeners["admin_token"].as_str().map(str::to_owned);
        Ok(Self { listeners, token })
    }
}

impl Remote {
    /// The one that `.atoll/run.json` in `data_dir` tells of.
    pub(super) fn find(data_dir: &Path) -> anyhow::Result<Self> {
        let Run { listeners, token } = Run::read(data_dir)?;
        let Some(console) = listeners["console"].as_str() else {
            bail!(
                "the Atoll that runs here has its console switched off (`listen.console: off`), so it cannot be asked"
            );
        };
        let token = match token {
            Some(token) => Some(HeaderValue::try_from(format!("Bearer {token}"))?),
            None => None,
        };
        Ok(Self {
            address: reachable(console)?,
            token,
            folder: data_dir.to_owned(),
        })
    }

    /// GET, read as JSON.
    pub(super) fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.ask(Method::GET, path, Bytes::new())
    }

    /// POST with a JSON body, read as JSON.
    pub(super) fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl serde::Serialize,
    ) -> anyhow::Result<T> {
        self.ask(Method::POST, path, serde_json::to_vec(body)?.into())
    }

    fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> anyhow::Result<T> {
        let request = self.request(method, path, body);
        let answer = runtime()?.block_on(request.send());
        let answer = answer.map_err(|error| self.in_words(error))?;
        if !answer.status.is_success() {
            return Err(refused(answer.status, &answer.body));
        }
        serde_json::from_slice(&answer.body)
            .with_context(|| format!("the answer to {path} is not what this version expects"))
    }

    /// GET, handed over line by line as it comes.
    pub(super) fn lines(
        &self,
        path: &str,
        mut each: impl FnMut(&str) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let request = self.request(Method::GET, path, Bytes::new());
        runtime()?.block_on(async {
            let mut lines: Lines = request.lines().await.map_err(|e| self.in_words(e))?;
            let status = lines.status();
            if !status.is_success() {
                let problem = lines.next().await?.unwrap_or_default();
                return Err(refused(status, problem.as_bytes()));
            }
            while let Some(line) = lines.next().await? {
                each(&line)?;
            }
            Ok(())
        })
    }

    fn request<'a>(&'a self, method: Method, path: &'a str, body: Bytes) -> Request<'a> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(token) = &self.token {
            headers.insert(AUTHORIZATION, token.clone());
        }
        Request {
            headers,
            body,
            body_bytes_max: ANSWER_BYTES_MAX,
            ..Request::new(method, &self.address, path)
        }
    }

    fn in_words(&self, error: atoll_net::client::ClientError) -> anyhow::Error {
        // A run.json that a killed Atoll left behind.
        if error.is_connect() {
            return nobody(&self.folder);
        }
        error.into()
    }
}

/// The address to ask at: one that listens everywhere is asked on loopback.
pub(crate) fn reachable(listens: &str) -> anyhow::Result<Address> {
    let mut socket: std::net::SocketAddr = listens
        .parse()
        .with_context(|| format!("`{listens}` in {RUN_FILE}"))?;
    if socket.ip().is_unspecified() {
        socket.set_ip(match socket.is_ipv4() {
            true => std::net::Ipv4Addr::LOCALHOST.into(),
            false => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    Ok(Address::from(socket))
}

/// That nobody runs there.
pub(crate) fn nobody(data_dir: &Path) -> anyhow::Error {
    let folder = data_dir
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let shown = folder.display();
    anyhow!(
        "no Atoll runs in {shown}: start it with `atoll up {shown}`, or name another folder with -C"
    )
}

fn refused(status: StatusCode, body: &[u8]) -> anyhow::Error {
    match serde_json::from_slice::<wire::Problem>(body) {
        Ok(problem) => anyhow!(problem.detail),
        Err(_) => anyhow!("Atoll answered {status}"),
    }
}

pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}
