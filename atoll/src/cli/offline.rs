//! Commands that need no running Atoll.

use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;
use serde_json::json;

use super::{Cli, Context, print};
use crate::config;

/// `atoll check`
pub(super) fn check(context: &Context, path: Option<&Path>) -> anyhow::Result<ExitCode> {
    let file = context.file(path)?;
    let outcome = config::load(&file, &context.environment);
    if context.json {
        let (ok, text) = match &outcome {
            Ok(loaded) => (
                true,
                json!({
                    "ok": true,
                    "file": file.display().to_string(),
                    "summary": loaded.summary(),
                    "warnings": loaded.warnings.iter().map(diagnostic).collect::<Vec<_>>(),
                }),
            ),
            Err(wrong) => (
                false,
                json!({
                    "ok": false,
                    "file": file.display().to_string(),
                    "errors": wrong.iter().map(diagnostic).collect::<Vec<_>>(),
                }),
            ),
        };
        print(serde_json::to_string_pretty(&text)?)?;
        return Ok(if ok {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        });
    }
    match outcome {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                print(warning.render(context.paint.on))?;
            }
            let name = file.file_name().unwrap_or(file.as_os_str()).display();
            let good = context.paint.green("good");
            print(format!("{name} is {good}: {}", loaded.summary()))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(wrong) => Err(anyhow::anyhow!(wrong.render(context.paint.on))),
    }
}

fn diagnostic(diagnostic: &config::Diagnostic) -> serde_json::Value {
    json!({
        "line": diagnostic.line,
        "column": diagnostic.column,
        "message": diagnostic.message,
        "hint": diagnostic.hint,
    })
}

/// `atoll config`
pub(super) fn config(
    context: &Context,
    path: Option<&Path>,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let expanded = context.load(path)?.expanded();
    if json {
        print(serde_json::to_string_pretty(&expanded)?)?;
    } else {
        print(config::to_yaml(&expanded))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// `atoll config --schema`
pub(super) fn schema() -> anyhow::Result<ExitCode> {
    print(serde_json::to_string_pretty(&config::schema())?)?;
    Ok(ExitCode::SUCCESS)
}

/// `atoll completions SHELL`
pub(super) fn completions(shell: Shell) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "atoll", &mut script);
    print(String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}
