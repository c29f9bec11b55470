//! The door through which a fuzzer hands in any bytes as a file.

use std::collections::BTreeMap;
use std::path::Path;

use super::diagnostic::{Diagnostics, Problems};
use super::expanded::Secrets;
use super::source::Source;
use super::variables::Variables;
use super::{Loaded, Place, read, to_yaml};

/// Reads `bytes` as a configuration file, without touching the disk, and asserts
/// what must hold whatever they are: it does not panic; what is wrong has a place
/// within the file; and the expanded form of what is accepted is accepted again and
/// expands to itself.
///
/// # Panics
/// When one of these does not hold: a defect.
pub fn fuzz(bytes: &[u8]) {
    let loaded = match understand(bytes) {
        Ok(loaded) => loaded,
        Err(errors) => {
            assert!(errors.iter().next().is_some(), "refused without a reason");
            let lines = bytes.split(|&byte| byte == b'\n' || byte == b'\r').count();
            assert!(
                errors.iter().all(|error| error.line as usize <= lines + 1),
                "beyond the end: {errors}"
            );
            assert!(!errors.render(true).is_empty());
            return;
        }
    };
    let expanded = loaded.expand(Secrets::Shown);
    let written = to_yaml(&expanded);
    let again = understand(written.as_bytes());
    let again =
        again.unwrap_or_else(|errors| panic!("refused when read back:\n{errors}\n{written}"));
    assert_eq!(expanded, again.expand(Secrets::Shown), "{written}");
    assert!(loaded.restart_needed(&again).is_empty());
}

fn understand(bytes: &[u8]) -> Result<Loaded, Diagnostics> {
    let source = Source::from_bytes("atoll.yaml", bytes.to_vec())?;
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let variables = Variables {
        process: BTreeMap::from([
            pair("SET", "a: [1, $SET]"),
            pair("PORT", "1"),
            pair("NUMBER", "2"),
        ]),
        file: BTreeMap::new(),
    };
    let place = Place {
        folder: Path::new("/fleet"),
        file_name: "atoll.yaml",
        reads_files: false,
    };
    read(&source, &place, &variables, Problems::default())
}
