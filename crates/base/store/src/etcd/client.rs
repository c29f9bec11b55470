//! Asks etcd: endpoints in turn, deadlines, the login, and what is known of a call
//! that failed.
//!
//! A call that etcd has certainly not acted on is tried at the next endpoint, until
//! its deadline or until the store is known to be away. One that may have changed
//! something is never tried again: only who asked knows whether that is harmless.

use std::fmt::Write as _;
use std::future::Future;
use std::time::Duration;

use atoll_model::Revision;
use atoll_runtime::{Backoff, Random, Stop};
use futures_util::{StreamExt as _, stream};
use http::uri::PathAndQuery;
use prost::Message;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;
use tonic::client::Grpc;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::names::{Prefix, header_revision};
use super::wire::{self, Call};
use super::{Login, Standing};

/// From the question to the answer, all endpoints together. etcd itself gives up a
/// proposal after 7 s at its usual election timeout; who waits for us will have
/// gone by then.
const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// What one endpoint gets of it when the question may be put to another as well.
const ATTEMPT_DEADLINE: Duration = Duration::from_secs(2);
/// For a look at whether etcd is there. A member without a leader says so only after
/// a while; a leader's disk may take a second.
const PROBE_DEADLINE: Duration = Duration::from_secs(2);
/// Pauses between rounds of endpoints.
const ROUND_FIRST: Duration = Duration::from_millis(50);
const ROUND_MOST: Duration = Duration::from_millis(500);

/// Longest answer that is read. A transaction's is not paged: it may delete so much
/// and tell what was there.
const ANSWER_BYTES_MAX: usize = 256 * 1_024 * 1_024;

/// etcd asked to refuse what a member without a leader cannot do, instead of
/// letting it wait (`rpctypes.MetadataRequireLeaderKey`).
const REQUIRE_LEADER: &str = "hasleader";
/// `rpctypes.TokenFieldNameGRPC`.
const TOKEN: &str = "token";

type Token = MetadataValue<Ascii>;

/// One member of the cluster. Both connections are made when they are first used,
/// and again after they broke.
pub(crate) struct Endpoint {
    pub(crate) name: String,
    pub(crate) calls: Channel,
    /// For watches of old history: whoever does not read on must not hold up the
    /// answers to others.
    pub(crate) history: Channel,
}

pub(crate) struct Client {
    pub(crate) endpoints: Vec<Endpoint>,
    /// Which endpoint is asked first.
    pub(crate) current: watch::Sender<usize>,
    pub(crate) login: Option<Login>,
    pub(crate) token: Mutex<Option<Token>>,
    pub(crate) standing: watch::Sender<Standing>,
    pub(crate) prefix: Prefix,
    pub(crate) stop: Stop,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// etcd's own verdict; nothing was done.
    Refused(Code, String),
    /// Nothing was done.
    Away(String),
    /// It may have been done.
    Unsure { endpoint: String, why: String },
    /// The answer was longer than [`ANSWER_BYTES_MAX`].
    TooLong,
}

/// Who is tried.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// Everyone, until the deadline or the store is known to be away.
    UntilAway,
    /// Everyone once.
    OneRound,
}

/// A status, and of what.
pub(crate) struct Trouble {
    status: Status,
    /// The login's: the call itself was not sent.
    login: bool,
}

impl From<Status> for Trouble {
    fn from(status: Status) -> Self {
        Self {
            status,
            login: false,
        }
    }
}

impl Client {
    /// Asks for an answer, unless the store is known to be away.
    pub(crate) async fn call<C: Call>(&self, call: C) -> Result<C::Answer, Failure> {
        let (call, writes) = (&call, call.writes());
        let attempt = |at| async move { self.send(&self.endpoint(at).calls, call).await };
        self.rounds(writes, Patience::UntilAway, CALL_DEADLINE, attempt)
            .await
    }

    /// Asks for one answer on a stream of messages (etcd's keep-alive is one).
    pub(crate) async fn call_stream<Q, A>(&self, path: &'static str, ask: Q) -> Result<A, Failure>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let ask = &ask;
        let attempt = |at: usize| async move {
            let mut answers = self.stream(&self.endpoint(at).calls, path, ask).await?;
            let first = answers.message().await?;
            first.ok_or_else(|| Status::unknown("the answer was missing").into())
        };
        self.rounds(false, Patience::UntilAway, CALL_DEADLINE, attempt)
            .await
    }

    /// The revision, asked of the whole cluster: only one with a leader answers.
    pub(crate) async fn probe(&self) -> Result<Revision, Failure> {
        let call = &wire::RangeRequest {
            key: self.prefix.as_bytes().to_vec(),
            limit: 1,
            keys_only: true,
            ..Default::default()
        };
        let attempt = |at| async move { self.send(&self.endpoint(at).calls, call).await };
        let answer = self
            .rounds(false, Patience::OneRound, PROBE_DEADLINE, attempt)
            .await?;
        Ok(header_revision(answer.header.as_ref()))
    }

    /// The number of the endpoint that is asked first.
    pub(crate) fn current(&self) -> &Endpoint {
        self.endpoint(*self.current.borrow())
    }

    fn endpoint(&self, at: usize) -> &Endpoint {
        // There is at least one, or `open` had refused.
        &self.endpoints[at % self.endpoints.len()]
    }

    /// Another endpoint is asked first from now on, unless one is already.
    fn leave(&self, at: usize) {
        let next = (at + 1) % self.endpoints.len();
        self.current.send_if_modified(|current| {
            let leaves = *current == at && next != at;
            if leaves {
                *current = next;
            }
            leaves
        });
    }

    /// Why the store is away, if it is.
    fn away(&self) -> Option<String> {
        match &*self.standing.borrow() {
            Standing::Ready => None,
            Standing::Away { why, .. } => Some(why.clone()),
        }
    }

    async fn rounds<T, Fut>(
        &self,
        writes: bool,
        patience: Patience,
        deadline: Duration,
        attempt: impl Fn(usize) -> Fut,
    ) -> Result<T, Failure>
    where
        Fut: Future<Output = Result<T, Trouble>> + Send,
    {
        let until = Instant::now() + deadline;
        let mut pauses = Backoff::new(ROUND_FIRST, ROUND_MOST, 0.2);
        loop {
            if let (Some(why), Patience::UntilAway) = (self.away(), patience) {
                return Err(Failure::Away(why));
            }
            let mut said = String::new();
            for _ in 0..self.endpoints.len() {
                let at = *self.current.borrow();
                let left = until.saturating_duration_since(Instant::now());
                // What was sent with a change in it has all the time there is.
                let limit = if writes || self.endpoints.len() == 1 {
                    left
                } else {
                    left.min(ATTEMPT_DEADLINE.min(deadline / 2))
                };
                let failure = match tokio::time::timeout(limit, attempt(at)).await {
                    Ok(Ok(answer)) => return Ok(answer),
                    Ok(Err(trouble)) => judge(&trouble, writes),
                    Err(_) if writes => Verdict::Unsure(no_answer(limit)),
                    Err(_) => Verdict::NotDone(no_answer(limit)),
                };
                let endpoint = &self.endpoint(at).name;
                match failure {
                    Verdict::Refused(code, why) => return Err(Failure::Refused(code, why)),
                    Verdict::TooLong => return Err(Failure::TooLong),
                    Verdict::Unsure(why) => {
                        self.leave(at);
                        let endpoint = endpoint.clone();
                        return Err(Failure::Unsure { endpoint, why });
                    }
                    Verdict::NotDone(why) => {
                        self.leave(at);
                        let comma = if said.is_empty() { "" } else { "; " };
                        // Writing to a text cannot fail.
                        write!(said, "{comma}{endpoint}: {why}").ok();
                    }
                }
            }
            let pause = pauses.next(&mut Random::from_entropy());
            if patience == Patience::OneRound || Instant::now() + pause >= until {
                return Err(Failure::Away(said));
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn send<C: Call>(&self, channel: &Channel, call: &C) -> Result<C::Answer, Trouble> {
        let token = self.token(channel, None).await?;
        let answer = unary(channel, call, token.as_ref()).await;
        match (answer, token) {
            (Err(status), Some(refused)) if wants_login(&status) => {
                let token = self.token(channel, Some(&refused)).await?;
                Ok(unary(channel, call, token.as_ref()).await?)
            }
            (answer, _) => Ok(answer?),
        }
    }

    /// Opens a stream on which `first` is all that is ever asked.
    pub(crate) async fn stream<Q, A>(
        &self,
        channel: &Channel,
        path: &'static str,
        first: &Q,
    ) -> Result<Streaming<A>, Trouble>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let token = self.token(channel, None).await?;
        // It stays open for as long as it is read: etcd ends a watch with it.
        let ask = stream::iter([first.clone()]).chain(stream::pending());
        let mut grpc = client(channel).await?;
        let request = dressed(ask, token.as_ref());
        let path = PathAndQuery::from_static(path);
        let answers = grpc.streaming(request, path, ProstCodec::default()).await;
        if answers.as_ref().is_err_and(wants_login) {
            self.forget(token.as_ref()).await;
        }
        Ok(answers?.into_inner())
    }

    /// The token to send: a new one when there is none, or only the one that was
    /// `refused`. None when no login is set, or etcd asks for none.
    async fn token(
        &self,
        channel: &Channel,
        refused: Option<&Token>,
    ) -> Result<Option<Token>, Trouble> {
        let Some(login) = &self.login else {
            return Ok(None);
        };
        // Held while asking, so that many calls get one new token, not many.
        let mut token = self.token.lock().await;
        if token.is_some() && token.as_ref() != refused {
            return Ok(token.clone());
        }
        let call = wire::AuthenticateRequest {
            name: login.username.clone(),
            password: login.password.clone(),
        };
        let of_login = |status| Trouble {
            status,
            login: true,
        };
        *token = match unary(channel, &call, None).await {
            Ok(answer) => {
                let parsed = answer.token.parse();
                Some(parsed.map_err(|_| of_login(Status::unknown("its token is not ASCII")))?)
            }
            Err(status) if status.message().contains("authentication is not enabled") => None,
            Err(status) => return Err(of_login(status)),
        };
        Ok(token.clone())
    }

    /// Has the next call log in again, after `refused` was.
    pub(crate) async fn forget(&self, refused: Option<&Token>) {
        let mut token = self.token.lock().await;
        if refused.is_none() || token.as_ref() == refused {
            *token = None;
        }
    }
}

fn no_answer(limit: Duration) -> String {
    format!("no answer within {:.1} s", limit.as_secs_f64())
}

async fn client(channel: &Channel) -> Result<Grpc<Channel>, Status> {
    let mut grpc = Grpc::new(channel.clone())
        .max_decoding_message_size(ANSWER_BYTES_MAX)
        .max_encoding_message_size(usize::MAX);
    grpc.ready().await.map_err(|error| {
        // Not sent: a connection could not be had.
        Status::from_error(Box::new(tonic::ConnectError(Box::new(error))))
    })?;
    Ok(grpc)
}

async fn unary<C: Call>(
    channel: &Channel,
    call: &C,
    token: Option<&Token>,
) -> Result<C::Answer, Status> {
    let mut grpc = client(channel).await?;
    let request = dressed(call.clone(), token);
    let path = PathAndQuery::from_static(C::PATH);
    let answer = grpc.unary(request, path, ProstCodec::default()).await?;
    Ok(answer.into_inner())
}

fn dressed<T>(message: T, token: Option<&Token>) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert(REQUIRE_LEADER, MetadataValue::from_static("true"));
    if let Some(token) = token {
        metadata.insert(TOKEN, token.clone());
    }
    request
}

/// etcd's words for a request above its `--max-request-bytes`.
pub(crate) const TOO_LARGE: &str = "etcdserver: request is too large";

/// What is known of a call that failed.
#[derive(Debug, PartialEq)]
enum Verdict {
    Refused(Code, String),
    NotDone(String),
    Unsure(String),
    TooLong,
}

/// Refused before anything was proposed to the cluster (etcd's `v3rpc/interceptor.go`
/// and `v3_server.go`), though the code alone would not tell.
const NOT_PROPOSED: [&str; 4] = [
    "etcdserver: no leader",
    "etcdserver: too many requests",
    "etcdserver: rpc not supported for learner",
    "raft proposal dropped",
];

fn judge(trouble: &Trouble, writes: bool) -> Verdict {
    let status = &trouble.status;
    let message = status.message();
    if NOT_PROPOSED.contains(&message) {
        return Verdict::NotDone(message.to_owned());
    }
    if message.contains("decoded message length too large") && !writes {
        return Verdict::TooLong;
    }
    // gRPC's own words for what etcd says of a request a little shorter.
    if message.starts_with("grpc: received message larger than max") {
        return Verdict::Refused(Code::InvalidArgument, TOO_LARGE.to_owned());
    }
    // Codes with which etcd says that it will not; its other codes say that it does
    // not know (`request timed out`, `server stopped`).
    let will_not = matches!(
        status.code(),
        Code::InvalidArgument
            | Code::OutOfRange
            | Code::NotFound
            | Code::FailedPrecondition
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::ResourceExhausted
    );
    if will_not && message.starts_with("etcdserver: ") {
        return Verdict::Refused(status.code(), message.to_owned());
    }
    if !writes || trouble.login || was_not_connected(status) {
        Verdict::NotDone(explain(status))
    } else {
        Verdict::Unsure(explain(status))
    }
}

/// Whether the call failed for want of a connection, so that nothing was sent.
fn was_not_connected(status: &Status) -> bool {
    let mut next = std::error::Error::source(status);
    while let Some(error) = next {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        next = error.source();
    }
    false
}

/// Its message and the last of its causes, which is the one that tells most.
pub(crate) fn explain(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut last = std::error::Error::source(status);
    while let Some(deeper) = last.and_then(std::error::Error::source) {
        last = Some(deeper);
    }
    if let Some(cause) = last.map(ToString::to_string)
        && !text.contains(&cause)
    {
        text = format!("{text}: {cause}");
    }
    text
}

impl Trouble {
    pub(crate) fn explain(&self) -> String {
        explain(&self.status)
    }
}

/// Whether a new login may help: tokens end (after five minutes without use, or
/// when etcd restarts), and are void once users or roles have changed.
pub(crate) fn says_wants_login(message: &str) -> bool {
    message.contains("invalid auth token") || message.contains("revision of auth store is old")
}

fn wants_login(status: &Status) -> bool {
    says_wants_login(status.message())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(status: Status, writes: bool, expected: &Verdict) {
        assert_eq!(judge(&status.into(), writes), *expected);
    }

    #[test]
    fn a_write_is_unsure_unless_it_is_known_not_to_have_happened() {
        let timed_out = "etcdserver: request timed out";
        let unsure = Verdict::Unsure(timed_out.to_owned());
        check(Status::unavailable(timed_out), true, &unsure);
        let not_done = Verdict::NotDone(timed_out.to_owned());
        check(Status::unavailable(timed_out), false, &not_done);
        for message in NOT_PROPOSED {
            let expected = Verdict::NotDone(message.to_owned());
            check(Status::unavailable(message), true, &expected);
            check(Status::unknown(message), true, &expected);
        }
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let text = refused.to_string();
        let refused = tonic::ConnectError(Box::new(refused));
        let trouble = Status::from_error(Box::new(refused)).into();
        assert_eq!(judge(&trouble, true), Verdict::NotDone(text));
        let broken = Status::unknown("transport error");
        check(broken, true, &Verdict::Unsure("transport error".to_owned()));
    }

    #[test]
    fn what_etcd_refuses_it_has_not_done() {
        let message = "etcdserver: requested lease not found";
        let expected = Verdict::Refused(Code::NotFound, message.to_owned());
        check(Status::not_found(message), true, &expected);
        let larger = "grpc: received message larger than max (3145760 vs. 2097152)";
        let expected = Verdict::Refused(Code::InvalidArgument, TOO_LARGE.to_owned());
        check(Status::resource_exhausted(larger), true, &expected);
        // Not its own words: somebody between us and it.
        let foreign = Status::not_found("404");
        check(foreign, true, &Verdict::Unsure("404".to_owned()));
    }

    #[test]
    fn a_failed_login_was_no_write() {
        let status = Status::unavailable("gone");
        let trouble = Trouble {
            status,
            login: true,
        };
        assert_eq!(judge(&trouble, true), Verdict::NotDone("gone".to_owned()));
    }
}
