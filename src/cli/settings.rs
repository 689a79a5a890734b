//! What every command shares: the data directory, the device, the threads. One precedence: flag, then
//! `CLOISTER_*` variable, then configuration file, then default. An unknown key in the file is refused by name.

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use serde::Deserialize;

pub use crate::work::client::Unsealer;
use crate::{
    base::{Context, Error, ErrorKind, Result},
    device::Choice,
    work::client::Site,
};

/// Read when neither `--config` nor `CLOISTER_CONFIG` names another; it need not exist.
const SYSTEM_CONFIG: &str = "/etc/cloister/cloister.toml";
const TRIAL_DATA_DIR: &str = "cloister-data";
const DEFAULT_LOG: &str = "warn";

#[derive(Debug, Default, clap::Args)]
pub struct GlobalArgs {
    /// Where everything is kept [default: ./cloister-data]
    #[arg(long, global = true, env = "CLOISTER_DATA_DIR", hide_env_values = true, value_name = "DIR", help_heading = HEADING)]
    data_dir: Option<PathBuf>,
    /// Print JSON on standard output: one document, or one a line
    #[arg(long, global = true, help_heading = HEADING)]
    json: bool,
    /// Where to compute: auto, cpu or cuda:N [default: auto]
    #[arg(long, global = true, env = "CLOISTER_DEVICE", hide_env_values = true, value_name = "DEVICE", help_heading = HEADING)]
    device: Option<Choice>,
    /// How many threads compute [default: one a core]
    #[arg(long, global = true, env = "CLOISTER_THREADS", hide_env_values = true, value_name = "N", help_heading = HEADING)]
    threads: Option<NonZeroUsize>,
    /// The file that holds the root key's wrapping key [default: the one that init remembered]
    #[arg(long, global = true, env = "CLOISTER_KEY_FILE", hide_env_values = true, value_name = "FILE", help_heading = HEADING)]
    key_file: Option<PathBuf>,
    /// A file whose first line is the passphrase
    #[arg(long, global = true, env = "CLOISTER_PASSPHRASE_FILE", hide_env_values = true, value_name = "FILE",
          conflicts_with = "key_file", help_heading = HEADING)]
    passphrase_file: Option<PathBuf>,
    /// What to log to standard error: a level, or room=level,… [default: warn]
    #[arg(long, global = true, env = "CLOISTER_LOG", hide_env_values = true, value_name = "FILTER", help_heading = HEADING)]
    log: Option<String>,
    /// A configuration file, given before the command [default: /etc/cloister/cloister.toml, if it is there]
    #[arg(long, env = "CLOISTER_CONFIG", hide_env_values = true, value_name = "FILE", help_heading = HEADING)]
    config: Option<PathBuf>,
}

const HEADING: &str = "Every command";

/// The same choices, resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub data_dir: PathBuf,
    pub json: bool,
    pub device: Choice,
    pub threads: Option<NonZeroUsize>,
    pub unsealer: Option<Unsealer>,
    pub log: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    data_dir: Option<PathBuf>,
    device: Option<Choice>,
    threads: Option<NonZeroUsize>,
    key_file: Option<PathBuf>,
    passphrase_file: Option<PathBuf>,
    log: Option<String>,
}

impl Settings {
    pub fn resolve(args: GlobalArgs) -> Result<Self> {
        let file = match &args.config {
            Some(path) => ConfigFile::read(path)?,
            None if Path::new(SYSTEM_CONFIG).exists() => ConfigFile::read(Path::new(SYSTEM_CONFIG))?,
            None => ConfigFile::default(),
        };
        Ok(Self {
            data_dir: args.data_dir.or(file.data_dir).unwrap_or_else(|| TRIAL_DATA_DIR.into()),
            json: args.json,
            device: args.device.or(file.device).unwrap_or_default(),
            threads: args.threads.or(file.threads),
            unsealer: unsealer(args.key_file, args.passphrase_file)
                .or_else(|| unsealer(file.key_file, file.passphrase_file)),
            log: args.log.or(file.log).unwrap_or_else(|| DEFAULT_LOG.into()),
        })
    }

    /// What the warden needs to know of them.
    pub fn site(&self) -> Site {
        let Self { data_dir, unsealer, device, threads, .. } = self.clone();
        Site { data_dir, unsealer, device, threads: threads.map(NonZeroUsize::get) }
    }
}

fn unsealer(key_file: Option<PathBuf>, passphrase_file: Option<PathBuf>) -> Option<Unsealer> {
    let passphrase = passphrase_file.map(Unsealer::PassphraseFile);
    passphrase.or(key_file.map(Unsealer::KeyFile))
}

impl ConfigFile {
    fn read(path: &Path) -> Result<Self> {
        let reading = || format!("reading the configuration {}", path.display());
        let text = std::fs::read_to_string(path).with_context(reading)?;
        toml::from_str(&text).with_context(reading).map_err(|error| {
            error
                .with_kind(ErrorKind::Usage)
                .remedy("the keys are: data_dir, device, threads, key_file, passphrase_file, log")
        })
    }
}

/// Sends the log to standard error, filtered as `--log` asks.
pub fn start_log(filter: &str) -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(filter)
        .map_err(|error| Error::usage(format!("--log {filter}: {error}")))?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_file(content: &str, args: GlobalArgs) -> Result<Settings> {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("cloister.toml");
        std::fs::write(&path, content).expect("write");
        Settings::resolve(GlobalArgs { config: Some(path), ..args })
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let args = GlobalArgs { threads: NonZeroUsize::new(3), ..Default::default() };
        let settings =
            with_file("threads = 8\ndata_dir = \"/srv/c\"\ndevice = \"cpu\"", args).expect("valid");
        assert_eq!(settings.threads, NonZeroUsize::new(3));
        assert_eq!(settings.data_dir, Path::new("/srv/c"));
        assert_eq!(settings.log, "warn");
    }

    #[test]
    fn what_the_file_may_not_say_is_refused_by_name() {
        for (content, name) in [
            ("treads = 8", "treads"),
            ("threads = 0", "threads"),
            ("device = \"tpu\"", "tpu"),
            ("device = \"cuda:\"", "cuda:"),
            ("data_dir = 3", "data_dir"),
            ("not toml", "cloister.toml"),
        ] {
            let error = with_file(content, GlobalArgs::default()).expect_err(content);
            assert_eq!(error.kind(), ErrorKind::Usage, "{content}");
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn a_named_configuration_must_exist() {
        let args = GlobalArgs { config: Some("/nonexistent/c.toml".into()), ..Default::default() };
        assert!(Settings::resolve(args).expect_err("missing").to_string().contains("/nonexistent/c.toml"));
    }
}
