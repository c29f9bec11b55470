//! A smoke run of the fuzz targets: their corpus, and mutations of it from a fixed
//! seed, unguided. `fuzz/` has the same targets for libFuzzer.

use std::fs;
use std::path::Path;

use atoll_runtime::Random;

/// Mutated inputs for each target; a few seconds.
const INPUTS: usize = 3_000;

/// Longest input: long ones cost time and find little.
const INPUT_BYTES_MAX: usize = 8 * 1024;

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(target);
    let files =
        fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = files.map(|file| file.expect("an entry").path()).collect();
    paths.sort();
    assert!(paths.len() >= 5, "the corpus of {target} is gone");
    paths
        .iter()
        .map(|path| fs::read(path).expect("a corpus file"))
        .collect()
}

/// One of the corpus with some bytes changed, doubled, taken away or exchanged for
/// pieces of others and of `words`.
fn mutated(corpus: &[Vec<u8>], words: &[&[u8]], random: &mut Random) -> Vec<u8> {
    let mut input = corpus[random.below(corpus.len())].clone();
    for _ in 0..=random.below(6) {
        let at = random.below(input.len() + 1);
        let length = random.below(24).min(input.len() - at);
        let word = words[random.below(words.len())];
        match random.below(6) {
            0 => {
                input.drain(at..at + length);
            }
            1 => input.insert(at, random.bits().to_le_bytes()[0]),
            2 => {
                input.splice(at..at + length, word.iter().copied());
            }
            3 => {
                let twice = input[at..at + length].repeat(2);
                input.splice(at..at + length, twice);
            }
            4 => {
                let other = &corpus[random.below(corpus.len())];
                let from = random.below(other.len() + 1);
                let to = other.len().min(from + random.below(200));
                input.splice(at..at + length, other[from..to].iter().copied());
            }
            _ => {
                input.splice(at..at, word.iter().copied());
            }
        }
    }
    input.truncate(INPUT_BYTES_MAX);
    input
}

fn smoke(target: &str, words: &[&[u8]], check: fn(&[u8])) {
    let corpus = corpus(target);
    corpus.iter().for_each(|input| check(input));
    let mut random = Random::from_seed(4);
    for _ in 0..INPUTS {
        let input = mutated(&corpus, words, &mut random);
        let held = std::panic::catch_unwind(|| check(&input));
        assert!(
            held.is_ok(),
            "the input: {:?}",
            String::from_utf8_lossy(&input)
        );
    }
}

#[test]
fn any_bytes_may_be_a_configuration() {
    const WORDS: [&[u8]; 40] = [
        b"$",
        b"${",
        b"}",
        b"$$",
        b"${SET}",
        b"$PORT",
        b"${NUMBER}",
        b"&a ",
        b"*a",
        b"<<: ",
        b": ",
        b"\n",
        b"\n  ",
        b"\n    ",
        b"- ",
        b"[",
        b"]",
        b"{",
        b"}",
        b"\"",
        b"'",
        b"|\n",
        b">-\n",
        b"!!str ",
        b"!x ",
        b"---\n",
        b"...\n",
        b"# ",
        b"\xff",
        b"\xe2\x80\xa8",
        b"\x00",
        b"\t",
        b"null",
        b"~",
        b"0",
        b"services:",
        b"routes:",
        b"/{p*}",
        b"x-a: ",
        b"\r\n",
    ];
    smoke("config", &WORDS, atoll::config::fuzz);
}

#[test]
fn any_bytes_may_begin_a_connection() {
    const WORDS: [&[u8]; 12] = [
        b"\r\n",
        b"\n",
        b"\r",
        b":",
        b" ",
        b"\t",
        b"Host: a\r\n",
        b"Content-Length: 1\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n",
        b"\x00",
        b"\x80",
    ];
    smoke("request_head", &WORDS, atoll_gateway::fuzz_request_head);
}

#[test]
fn any_bytes_may_be_a_question_of_dns() {
    const WORDS: [&[u8]; 16] = [
        b"\x00",
        b"\xc0\x0c",
        b"\xc0\xff",
        b"\x3f",
        b"\x80",
        b"\x03web",
        b"\x04many",
        b"\x05alias",
        b"\x04loop",
        b"\x07service",
        b"\x04node",
        b"\x04addr",
        b"\x06consul\x00",
        b"\x00\x21\x00\x01",
        b"\x00\xff\x00\x01",
        b"\x00\x00\x29\x10\x00\x00\x00\x00\x00\x00\x00",
    ];
    smoke("dns_packet", &WORDS, atoll_dns::fuzz_packet);
}

#[test]
fn any_bytes_may_be_told_to_eureka() {
    const WORDS: [&[u8]; 24] = [
        b"{",
        b"}",
        b"[",
        b"]",
        b"\"",
        b":",
        b",",
        b"null",
        b"-1",
        b"1e9",
        b"\\u0000",
        b"\"@class\":",
        b"\"$\":",
        b"\"metadata\":{",
        b"<",
        b">",
        b"</",
        b"/>",
        b"&lt;",
        b"&#0;",
        b"<![CDATA[",
        b"]]>",
        b"<metadata>",
        b"</metadata>",
    ];
    smoke("eureka", &WORDS, atoll_eureka::fuzz);
}

#[test]
fn any_bytes_may_be_a_filter_of_consul() {
    const WORDS: [&[u8]; 20] = [
        b" and ",
        b" or ",
        b"not ",
        b" in ",
        b" is empty",
        b" contains ",
        b" matches ",
        b" == ",
        b" != ",
        b"(",
        b")",
        b"[",
        b"]",
        b".",
        b"\"",
        b"`",
        b"\\",
        b"Tags",
        b"Meta",
        b"(a*)*",
    ];
    smoke("consul_filter", &WORDS, atoll_consul::fuzz_filter);
}

#[test]
fn any_bytes_may_be_a_registration_with_consul() {
    const WORDS: [&[u8]; 16] = [
        b"{",
        b"}",
        b"[",
        b"]",
        b"\"",
        b":",
        b",",
        b"null",
        b"-1",
        b"1e999",
        b"\"Check\":{",
        b"\"TTL\":\"10s\"",
        b"\"HTTP\":\"http://",
        b"\"Interval\":1",
        b"\xff",
        b"\"Name\":\"a\",",
    ];
    smoke("consul_body", &WORDS, atoll_consul::fuzz_body);
}

#[test]
fn any_bytes_may_be_the_rules_of_a_policy_of_consul() {
    const WORDS: [&[u8]; 24] = [
        b"{",
        b"}",
        b"[",
        b"]",
        b"\"",
        b"\\",
        b"\\u00e9",
        b"=",
        b":",
        b",",
        b"\n",
        b"#",
        b"/*",
        b"*/",
        b"key",
        b"_prefix",
        b"service",
        b"operator = ",
        b"policy = ",
        b"\"write\"",
        b"\"deny\"",
        b"\"\" { policy = \"read\" }",
        b"{\"policy\":\"list\"}",
        b"\xff",
    ];
    smoke("consul_acl", &WORDS, atoll_consul::fuzz_acl_rules);
}
