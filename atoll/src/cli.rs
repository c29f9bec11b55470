//! The command line: what it is asked, by whom it is answered, and how it ends.
//!
//! `up`, `check`, `config`, `doctor` and `completions` work by themselves
//! (`cli/offline.rs`); the rest asks the Atoll that runs (`cli/remote.rs`) and shows
//! its answer (`cli/show.rs`). Exit status 0 is success, 1 failure, 2 wrong usage.

mod doctor;
mod offline;
pub(crate) mod remote;
mod show;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::paint::Paint;
use crate::{config, migrate, up};

/// Everything a fleet of microservices needs, in one binary.
#[derive(Debug, Parser)]
#[command(
    name = "atoll",
    version,
    propagate_version = true,
    max_term_width = 100
)]
pub struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Common {
    /// Folder with the atoll.yaml, or the file itself
    #[arg(short = 'C', long = "directory", value_name = "PATH", global = true)]
    directory: Option<PathBuf>,
    /// Where state lives [default: .atoll beside the file]
    #[arg(long, value_name = "DIR", global = true)]
    data_dir: Option<PathBuf>,
    /// Print JSON instead of text
    #[arg(long, global = true)]
    json: bool,
    /// When to use colours
    #[arg(long, value_enum, default_value_t, value_name = "WHEN", global = true)]
    color: When,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum When {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build, start, register, check, route and show the services of a file
    Up {
        /// Folder with the atoll.yaml, or the file itself [default: .]
        path: Option<PathBuf>,
    },
    /// Read a file and say everything that is wrong with it
    Check {
        /// Folder with the atoll.yaml, or the file itself [default: .]
        path: Option<PathBuf>,
    },
    /// Print a file in full, with every default
    Config {
        /// Folder with the atoll.yaml, or the file itself [default: .]
        path: Option<PathBuf>,
        /// How to print it
        #[arg(long, value_enum, default_value_t)]
        format: Format,
        /// Print the JSON Schema of such files instead, for editors
        #[arg(long, conflicts_with_all = ["path", "format"])]
        schema: bool,
    },
    /// Show what runs and where
    Status,
    /// Show the services and their instances
    Services {
        /// Only this one
        name: Option<String>,
    },
    /// Show the routes and their policies
    Routes,
    /// Show what a service printed
    Logs {
        /// The service
        service: String,
        /// Go on as more is printed
        #[arg(short, long)]
        follow: bool,
        /// Lines from the end of what is kept
        #[arg(short = 'n', long, value_name = "LINES", default_value_t = 100)]
        tail: usize,
        /// Only this replica: `users-1`, or `users.build` for the build
        #[arg(long, value_name = "ID")]
        replica: Option<String>,
    },
    /// Say which route takes a request and why, and where it would go; nothing is sent
    Explain {
        /// The method: GET
        method: String,
        /// URL or path: /users/7?full=1
        url: String,
        /// A header of the request
        #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = header)]
        headers: Vec<(String, String)>,
    },
    /// Copy a running registry into the Atoll that runs here, and follow it until its
    /// clients have switched
    Migrate {
        #[command(subcommand)]
        from: From,
    },
    /// Look for what would keep a fleet from running here
    Doctor,
    /// Print the completions of a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// What can be migrated from.
#[derive(Debug, Subcommand)]
enum From {
    /// Netflix Eureka: its instances with metadata, leases and status overrides
    ///
    /// What is copied lives on for 90 s after Ctrl-C; clients take it over by
    /// registering. A Netflix server shows changes up to 30 s late.
    Eureka {
        /// Where it is: http://HOST:8761/eureka; with http://USER:PASSWORD@HOST if it
        /// wants them
        url: String,
        #[command(flatten)]
        how: How,
    },
    /// HashiCorp Consul: its services with their nodes and checks, and its keys
    ///
    /// What is copied lives on for 90 s after Ctrl-C; clients take it over by
    /// registering. Keys stay. Tokens, sessions, prepared queries and nodes without
    /// services are not copied.
    Consul {
        /// Where it is: http://HOST:8500
        url: String,
        /// A token that may read services, nodes and keys [default: $CONSUL_HTTP_TOKEN]
        #[arg(long, value_name = "TOKEN")]
        token: Option<String>,
        /// Another of its datacenters than its own
        #[arg(long, value_name = "NAME")]
        datacenter: Option<String>,
        #[command(flatten)]
        how: How,
    },
}

#[derive(Debug, Args)]
struct How {
    /// Copy once and end, rather than follow
    #[arg(long)]
    once: bool,
    /// Say what would be copied, and change nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    #[default]
    Yaml,
    Json,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once(':')
        .ok_or_else(|| "write it as 'Name: value'".to_owned())?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

/// What every command needs to know.
struct Context {
    directory: Option<PathBuf>,
    data_dir: Option<PathBuf>,
    json: bool,
    paint: Paint,
    terminal: bool,
    environment: BTreeMap<String, String>,
}

/// Runs the command line and gives the exit status.
pub fn main(
    arguments: impl IntoIterator<Item = OsString>,
    environment: BTreeMap<String, String>,
) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(wrong) => {
            // Help and version come this way, too, with status 0.
            let code = wrong.exit_code();
            drop(wrong.print());
            return ExitCode::from(u8::try_from(code).unwrap_or(2));
        }
    };
    let dumb = environment.get("TERM").is_some_and(|term| term == "dumb");
    let no_colour = environment
        .get("NO_COLOR")
        .is_some_and(|set| !set.is_empty());
    let terminal = std::io::stdout().is_terminal() && !dumb;
    let on = match cli.common.color {
        When::Always => true,
        When::Never => false,
        When::Auto => terminal && !no_colour,
    };
    let context = Context {
        directory: cli.common.directory,
        data_dir: cli.common.data_dir,
        json: cli.common.json,
        paint: Paint { on },
        terminal,
        environment,
    };
    match dispatch(cli.command, &context) {
        Ok(code) => code,
        Err(error) => {
            let colour = match cli.common.color {
                When::Auto => std::io::stderr().is_terminal() && !dumb && !no_colour,
                When::Always => true,
                When::Never => false,
            };
            complain(Paint { on: colour }, &error);
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command, context: &Context) -> anyhow::Result<ExitCode> {
    match command {
        Command::Up { path } => {
            let file = context.file(path.as_deref())?;
            let data_dir = up::data_dir(&file, context.data_dir.as_deref());
            up::run(up::Options {
                file,
                data_dir: std::path::absolute(data_dir)?,
                environment: context.environment.clone(),
                terminal: context.terminal,
                paint: context.paint,
            })
        }
        Command::Check { path } => offline::check(context, path.as_deref()),
        Command::Config { schema: true, .. } => offline::schema(),
        Command::Config { path, format, .. } => {
            let json = context.json || format == Format::Json;
            offline::config(context, path.as_deref(), json)
        }
        Command::Migrate { from } => migrate(from, context),
        Command::Doctor => doctor::run(context),
        Command::Completions { shell } => offline::completions(shell),
        Command::Status => show::status(context),
        Command::Services { name } => show::services(context, name.as_deref()),
        Command::Routes => show::routes(context),
        Command::Explain {
            method,
            url,
            headers,
        } => show::explain(context, method, url, headers),
        Command::Logs {
            service,
            follow,
            tail,
            replica,
        } => show::logs(context, &service, replica.as_deref(), tail, follow),
    }
}

fn migrate(from: From, context: &Context) -> anyhow::Result<ExitCode> {
    let (kind, url, token, datacenter, how) = match from {
        From::Eureka { url, how } => (migrate::Kind::Eureka, url, None, None, how),
        From::Consul {
            url,
            token,
            datacenter,
            how,
        } => {
            // Where Consul's own commands look for it.
            let token = token.or_else(|| context.environment.get("CONSUL_HTTP_TOKEN").cloned());
            let token = token.filter(|token| !token.is_empty());
            (migrate::Kind::Consul, url, token, datacenter, how)
        }
    };
    migrate::run(&migrate::Options {
        kind,
        url,
        token,
        datacenter,
        once: how.once,
        dry_run: how.dry_run,
        json: context.json,
        paint: context.paint,
        data_dir: context.running_data_dir(),
    })
}

impl Context {
    /// The config file: what the command names goes before `-C`.
    fn file(&self, path: Option<&Path>) -> anyhow::Result<PathBuf> {
        Ok(config::find(path.or(self.directory.as_deref()))?)
    }

    /// Reads the config file; what is wrong with it becomes the error.
    fn load(&self, path: Option<&Path>) -> anyhow::Result<config::Loaded> {
        let file = self.file(path)?;
        config::load(&file, &self.environment)
            .map_err(|wrong| anyhow::anyhow!(wrong.render(self.paint.on)))
    }

    /// Where the running Atoll of this folder keeps its state.
    fn running_data_dir(&self) -> PathBuf {
        if let Some(given) = &self.data_dir {
            return given.clone();
        }
        let named = self.directory.as_deref().unwrap_or(Path::new("."));
        let folder = match named.is_file() {
            true => named.parent().unwrap_or(named),
            false => named,
        };
        folder.join(up::DATA_DIR)
    }
}

/// Writes to standard output. A reader who has seen enough (`atoll logs | head`) is
/// no failure.
pub(crate) fn print(text: impl AsRef<str>) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let text = text.as_ref();
    let end = if text.is_empty() || text.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    let written = out
        .write_all(text.as_bytes())
        .and_then(|()| out.write_all(end.as_bytes()))
        .and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other,
    }
}

fn complain(paint: Paint, error: &anyhow::Error) {
    let text = format!("{error:#}");
    // What is wrong with a file comes with its own headings.
    let text = match text.starts_with("error") || text.starts_with('\u{1b}') {
        true => text,
        false => format!("{} {text}", paint.red("error:")),
    };
    // Nobody to tell if standard error is closed.
    drop(writeln!(std::io::stderr(), "{}", text.trim_end()));
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_header_is_split_at_its_first_colon() {
        assert_eq!(
            header("Host: a:80"),
            Ok(("Host".to_owned(), "a:80".to_owned()))
        );
        assert!(header("Host").is_err());
    }
}
