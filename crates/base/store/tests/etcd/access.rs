//! Who is let in: users with passwords, and certificates.

use std::path::{Path, PathBuf};

use atoll_runtime::{Clock, Tasks};
use atoll_store::etcd::{self, Login, Options, Tls};
use atoll_store::{Store, StoreError};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use crate::server::Etcd;
use crate::{events, soon, until_away};

fn login(username: &str, password: &str) -> Option<Login> {
    Some(Login {
        username: username.to_owned(),
        password: password.to_owned(),
    })
}

async fn open(options: Options) -> Result<(Store, Tasks), StoreError> {
    let tasks = Tasks::root(Clock::system());
    let store = etcd::open(options, &tasks).await?;
    Ok((store, tasks))
}

async fn refusal(options: Options) -> StoreError {
    match open(options).await {
        Ok(_) => panic!("let in"),
        Err(error) => error,
    }
}

/// With a user `atoll` that may do what it likes below `/atoll/`, and nothing else.
fn with_users() -> Etcd {
    let etcd = Etcd::start();
    etcd.ctl(&["user", "add", "root:secret"]);
    etcd.ctl(&["user", "grant-role", "root", "root"]);
    etcd.ctl(&["user", "add", "atoll:hush"]);
    etcd.ctl(&["role", "add", "atoll"]);
    let grant = ["role", "grant-permission", "--prefix=true", "atoll"];
    etcd.ctl(&[&grant[..], &["readwrite", "/atoll/"]].concat());
    etcd.ctl(&["user", "grant-role", "atoll", "atoll"]);
    etcd.ctl(&["auth", "enable"]);
    etcd
}

#[tokio::test]
async fn only_the_right_login_is_let_in_and_only_where_it_may() {
    let etcd = with_users();
    let cases = [
        ("/atoll", None),
        ("/atoll", login("atoll", "wrong")),
        ("/atoll", login("nobody", "hush")),
        ("/elsewhere", login("atoll", "hush")),
    ];
    for (prefix, login) in cases {
        let mut options = etcd.options(prefix);
        options.login = login.clone();
        let error = refusal(options).await;
        assert!(matches!(error, StoreError::Denied(_)), "{login:?}: {error}");
        assert!(!error.to_string().contains("hush"));
    }
}

#[tokio::test]
async fn a_login_that_etcd_has_forgotten_is_made_again() {
    let mut etcd = with_users();
    let mut options = etcd.options("/atoll");
    options.login = login("atoll", "hush");
    let (store, _tasks) = open(options).await.unwrap();
    let mut standing = store.standing();
    let begin = store.put("a", "1").await.unwrap();
    let mut watch = store.watch("a", begin).await.unwrap();
    // etcd keeps its tokens in memory.
    etcd.kill();
    until_away(&mut standing, true).await;
    etcd.run_again();
    until_away(&mut standing, false).await;
    store.put("a", "2").await.unwrap();
    assert_eq!(*events(&mut watch).await[0].key, *b"a");
    // And what changes users makes them void, too.
    let root = ["--user", "root:secret", "user", "add", "other:word"];
    etcd.ctl(&root);
    store.put("a", "3").await.unwrap();
    assert_eq!(*events(&mut watch).await[0].key, *b"a");
    let lease = store
        .grant(std::time::Duration::from_secs(60))
        .await
        .unwrap();
    store.keep_alive(lease.id).await.unwrap();
}

/// An authority and what it has signed, as files.
struct Papers {
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
}

fn papers(dir: &Path, name: &str) -> Papers {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_cert = ca.self_signed(&ca_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let params = CertificateParams::new(names).unwrap();
    let cert = params.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
    let write = |what: &str, text: String| {
        let path = dir.join(format!("{name}-{what}.pem"));
        std::fs::write(&path, text).unwrap();
        path
    };
    Papers {
        ca: write("ca", ca_cert.pem()),
        cert: write("cert", cert.pem()),
        key: write("key", key.serialize_pem()),
    }
}

#[tokio::test]
async fn certificates_are_shown_and_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let ours = papers(dir.path(), "ours");
    let foreign = papers(dir.path(), "foreign");
    let argument = |name: &str, path: &Path| format!("--{name}={}", path.display());
    let arguments = vec![
        argument("cert-file", &ours.cert),
        argument("key-file", &ours.key),
        argument("trusted-ca-file", &ours.ca),
        "--client-cert-auth".to_owned(),
    ];
    let etcd = Etcd::start_with(dir, "https", arguments);
    let options = |tls: Tls| Options {
        tls,
        ..etcd.options("/atoll")
    };
    let right = Tls {
        ca: Some(ours.ca.clone()),
        identity: Some((ours.cert.clone(), ours.key.clone())),
    };
    let (store, _tasks) = open(options(right.clone())).await.unwrap();
    let begin = store.put("a", "1").await.unwrap();
    let mut watch = store.watch("a", begin).await.unwrap();
    store.put("a", "2").await.unwrap();
    assert_eq!(*events(&mut watch).await[0].key, *b"a");

    // Not believed, not shown, and shown by a stranger; each waits for its time.
    let unbelieved = Tls {
        ca: Some(foreign.ca.clone()),
        ..right.clone()
    };
    let unshown = Tls {
        identity: None,
        ..right.clone()
    };
    let strange = Tls {
        identity: Some((foreign.cert.clone(), foreign.key)),
        ..right.clone()
    };
    let all = [unbelieved, unshown, strange].map(|tls| refusal(options(tls)));
    let [unbelieved, unshown, strange] = all.map(Box::pin);
    let refused = soon("three errors", async {
        tokio::join!(unbelieved, unshown, strange)
    })
    .await;
    let (unbelieved, unshown, strange) = refused;
    for refused in [unbelieved, unshown, strange] {
        let error = refused.to_string().to_lowercase();
        assert!(
            error.contains("certificate") || error.contains("closed"),
            "{error}"
        );
    }

    // Files that are none, or do not belong together.
    let no_pem = dir_file(&etcd, "no.pem", "hello");
    let missing = etcd.dir.path().join("missing.pem");
    for ca in [no_pem, missing] {
        let tls = Tls {
            ca: Some(ca.clone()),
            ..right.clone()
        };
        let error = refusal(options(tls)).await.to_string();
        assert!(error.contains(&ca.display().to_string()), "{error}");
    }
    let mixed = Tls {
        identity: Some((foreign.cert, ours.key)),
        ..right
    };
    let error = refusal(options(mixed)).await.to_string();
    assert!(error.contains("foreign-cert.pem"), "{error}");
}

fn dir_file(etcd: &Etcd, name: &str, text: &str) -> PathBuf {
    let path = etcd.dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}
