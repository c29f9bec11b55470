//! Asking instances: the only part of the registry that opens connections.
//!
//! One task holds all questions that are out; the state lets out no more than
//! [`crate::Settings::probes_max`], so the queue between them never fills.

use std::fmt::Write as _;
use std::time::Duration;

use atoll_model::{Address, Probe};
use atoll_net::client::{self, ClientError, Request};
use atoll_runtime::{Clock, Stop};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::header::{ACCEPT, HeaderValue, USER_AGENT};
use http::{Method, StatusCode};
use tokio::sync::mpsc;

use crate::Outcome;
use crate::owner::Command;
use crate::record::OUTPUT_BYTES_MAX;
use crate::state::{Answer, Event, Question};

const AGENT: HeaderValue = HeaderValue::from_static("Atoll-Health/0.1");

/// Puts questions until told to stop.
pub(crate) async fn run(
    mut questions: mpsc::Receiver<Question>,
    answers: mpsc::Sender<Command>,
    clock: Clock,
    stop: Stop,
) {
    let mut asking = FuturesUnordered::new();
    loop {
        tokio::select! {
            () = stop.requested() => return,
            question = questions.recv() => match question {
                Some(question) => asking.push(ask(question, &clock)),
                None => return,
            },
            Some(answer) = asking.next() => {
                let command = Command::Event(Event::Answer(answer));
                if answers.send(command).await.is_err() {
                    return;
                }
            }
        }
    }
}

async fn ask(question: Question, clock: &Clock) -> Answer {
    let Question {
        target,
        address,
        probe,
        timeout,
    } = question;
    let begun = clock.now();
    let (outcome, output) = match &probe {
        Probe::Http { path } => http(&address, path, timeout).await,
        Probe::Tcp => tcp(&address, timeout).await,
        // The state asks nobody then.
        Probe::Told { .. } => (Outcome::Fail, "nothing to ask".to_owned()),
    };
    Answer {
        target,
        outcome,
        output,
        took: clock.now().saturating_duration_since(begun),
    }
}

async fn http(address: &Address, path: &str, timeout: Duration) -> (Outcome, String) {
    let mut request = Request::new(Method::GET, address, path);
    request.headers.insert(USER_AGENT, AGENT);
    request
        .headers
        .insert(ACCEPT, HeaderValue::from_static("*/*"));
    request.timeout = timeout;
    request.body_bytes_max = OUTPUT_BYTES_MAX;
    request.cut = true;
    match request.send().await {
        Ok(response) => {
            let status = response.status;
            let outcome = match status {
                StatusCode::TOO_MANY_REQUESTS => Outcome::Warn,
                status if status.is_success() => Outcome::Pass,
                _ => Outcome::Fail,
            };
            let mut output = format!("GET {path}: {status}");
            let body = String::from_utf8_lossy(&response.body);
            if !body.trim().is_empty() {
                // Writing to a string cannot fail.
                write!(output, ": {}", body.trim()).unwrap_or_default();
            }
            (outcome, output)
        }
        Err(error) => (Outcome::Fail, format!("GET {path}: {error}")),
    }
}

async fn tcp(address: &Address, timeout: Duration) -> (Outcome, String) {
    match tokio::time::timeout(timeout, client::connect(address)).await {
        Ok(Ok(_connection)) => (Outcome::Pass, format!("{address} takes connections")),
        Ok(Err(error)) => (Outcome::Fail, error.to_string()),
        Err(_) => {
            let error = ClientError::Timeout {
                address: address.clone(),
                timeout,
            };
            (Outcome::Fail, error.to_string())
        }
    }
}
