//! `store:`.

use atoll_store::etcd::{Address, Login, Options, Tls};

use super::decode::{Context, Fields};
use super::keys;
use super::tree::{Node, Value};

/// What stands before each key in etcd.
const PREFIX_DEFAULT: &str = "/atoll";
/// It is sent with every key.
const PREFIX_BYTES_MAX: usize = 256;
/// Members of a cluster; etcd's own advice ends at seven.
const ENDPOINTS_MAX: usize = 16;

/// Where registrations and all else that must last are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Store {
    /// In the data folder.
    #[default]
    Embedded,
    /// In etcd, shared by all that are told the same prefix.
    Etcd(Options),
}

pub(crate) fn store(cx: &Context<'_>, node: &Node) -> Option<Store> {
    if let Value::Text(_) = node.value {
        cx.choice(node, &["embedded"])?;
        return Some(Store::Embedded);
    }
    let fields = Fields::of(cx, node, &keys::STORE)?;
    let endpoints = fields.get("etcd").map(|node| endpoints(cx, node));
    let prefix = match fields.get("prefix") {
        Some(node) => prefix(cx, node),
        None => Some(PREFIX_DEFAULT.to_owned()),
    };
    let tls = fields.entry("tls");
    let found_tls = match tls {
        Some(entry) => self::tls(cx, &entry.node),
        None => Some(Tls::default()),
    };
    let login = login(cx, &fields);
    let Some(endpoints) = endpoints else {
        let others = ["prefix", "tls", "username", "password"];
        let other = others.into_iter().find_map(|name| fields.entry(name));
        if let Some(other) = other.filter(|_| !fields.misspelt(&["etcd"])) {
            let message = format!("`{}` means nothing without `etcd`", other.key);
            cx.error_with(other.key_span, message, "say `etcd: [http://HOST:2379]`");
        }
        fields.finish();
        return Some(Store::Embedded);
    };
    let endpoints = endpoints?;
    let plain = endpoints.iter().find(|address| !address.is_https());
    if let (Some(entry), true) = (tls, endpoints.iter().all(|address| !address.is_https())) {
        cx.error_with(
            entry.key_span,
            "`tls` means nothing without an `https` address under `etcd`",
            "write `https://HOST:2379`, or remove `tls`",
        );
    }
    let secret = fields.entry("password");
    let beyond = plain.filter(|address| !address.is_loopback());
    if let (Some(entry), Some(address)) = (secret, beyond) {
        let message = format!("the password is sent to {address} for everybody on the way to read");
        cx.warn(entry.key_span, message);
    }
    fields.finish();
    Some(Store::Etcd(Options {
        endpoints,
        prefix: prefix?,
        tls: found_tls?,
        login: login?,
        // What the registry keeps it has in memory as it is.
        mirrored: vec![atoll_consul::KEYS.to_owned()],
    }))
}

fn endpoints(cx: &Context<'_>, node: &Node) -> Option<Vec<Address>> {
    let words = cx.texts(node);
    if !(1..=ENDPOINTS_MAX).contains(&words.len()) {
        cx.error(
            node.span,
            format!("from 1 to {ENDPOINTS_MAX} addresses may stand here"),
        );
        return None;
    }
    let addresses: Vec<_> = words
        .iter()
        .map(|word| cx.ok(word.span, word.text.trim().parse::<Address>()))
        .collect();
    addresses.into_iter().collect()
}

fn prefix(cx: &Context<'_>, node: &Node) -> Option<String> {
    let word = cx.words(node)?;
    let text = word.text.trim_end_matches('/');
    let fits = (1..=PREFIX_BYTES_MAX).contains(&text.len());
    if !fits || text.chars().any(char::is_control) {
        let message = format!(
            "a prefix has from 1 to {PREFIX_BYTES_MAX} bytes without control characters, such as `{PREFIX_DEFAULT}`"
        );
        cx.error(word.span, message);
        return None;
    }
    Some(text.to_owned())
}

fn tls(cx: &Context<'_>, node: &Node) -> Option<Tls> {
    let fields = Fields::of(cx, node, &keys::STORE_TLS)?;
    let path = |name| {
        let word = fields.get(name).map(|node| cx.words(node));
        word.map(|word| word.map(|word| cx.path(&word.text)))
    };
    let ca = path("ca");
    let identity = match (fields.entry("cert"), fields.entry("key")) {
        (Some(one), None) | (None, Some(one)) => {
            cx.error(one.key_span, "`cert` and `key` belong together");
            return None;
        }
        _ => path("cert").zip(path("key")),
    };
    fields.finish();
    Some(Tls {
        ca: match ca {
            Some(ca) => Some(ca?),
            None => None,
        },
        identity: match identity {
            Some((cert, key)) => Some((cert?, key?)),
            None => None,
        },
    })
}

/// What was wrong is reported.
fn login(cx: &Context<'_>, fields: &Fields<'_>) -> Option<Option<Login>> {
    let (username, password) = (fields.entry("username"), fields.entry("password"));
    match (username, password) {
        (None, None) => Some(None),
        (Some(username), Some(password)) => {
            let (username, password) = (cx.words(&username.node), cx.words(&password.node));
            Some(Some(Login {
                username: username?.text,
                password: password?.text,
            }))
        }
        (Some(one), None) | (None, Some(one)) => {
            if !fields.misspelt(&["username", "password"]) {
                cx.error(one.key_span, "`username` and `password` belong together");
            }
            None
        }
    }
}
