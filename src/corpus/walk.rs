//! Finding the files under the paths that a user named: depth first, each folder in the order of its names,
//! so that the same tree is always walked alike. Links are followed, but never round in a circle.

use std::{
    collections::HashSet,
    fs::{self, Metadata},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{Reason, refusal::Refused};

/// What the walk meets.
#[derive(Debug)]
pub enum Found {
    File {
        path: PathBuf,
        bytes: u64,
    },
    Refused {
        path: PathBuf,
        refused: Refused,
    },
    /// A name that begins with a dot inside a folder: passed over, and counted.
    Hidden,
    EmptyFolder {
        path: PathBuf,
    },
}

/// Device and inode: what a folder is, whatever it is called.
type Identity = (u64, u64);

/// The iterator over everything under some paths.
#[derive(Debug)]
pub struct Walk {
    /// What is still to be looked at, next last.
    pending: Vec<Step>,
    /// The folders that the walk stands in.
    above: Vec<Identity>,
    /// Folders taken, for those that links reach a second time.
    taken: HashSet<Identity>,
}

#[derive(Debug)]
enum Step {
    Visit { path: PathBuf, named: bool },
    Leave,
}

impl Walk {
    /// A walk over `paths` in the order given; relative ones are seen from the current directory.
    pub fn new(paths: &[PathBuf]) -> Self {
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        let pending =
            paths.iter().rev().map(|path| Step::Visit { path: absolute(path), named: true }).collect();
        Self { pending, above: Vec::new(), taken: HashSet::new() }
    }

    fn visit(&mut self, path: PathBuf, named: bool) -> Option<Found> {
        if !named && is_hidden(&path) {
            return Some(Found::Hidden);
        }
        match fs::metadata(&path) {
            Err(error) => Some(unreadable(path, &error)),
            Ok(metadata) if metadata.is_dir() => self.enter(path, &metadata),
            Ok(metadata) if metadata.is_file() => Some(Found::File { path, bytes: metadata.len() }),
            Ok(_) => Some(Found::Refused { path, refused: Refused::new(Reason::NotAFile, "") }),
        }
    }

    fn enter(&mut self, path: PathBuf, metadata: &Metadata) -> Option<Found> {
        let identity = (metadata.dev(), metadata.ino());
        if self.above.contains(&identity) {
            return Some(Found::Refused { path, refused: Refused::new(Reason::SymlinkLoop, "") });
        }
        if !self.taken.insert(identity) {
            return Some(Found::Refused { path, refused: Refused::new(Reason::Repeated, "") });
        }
        let mut names = match entries(&path) {
            Ok(names) => names,
            Err(error) => return Some(unreadable(path, &error)),
        };
        if names.is_empty() {
            return Some(Found::EmptyFolder { path });
        }
        names.sort_unstable();
        self.above.push(identity);
        self.pending.push(Step::Leave);
        self.pending.extend(names.into_iter().rev().map(|path| Step::Visit { path, named: false }));
        None
    }
}

impl Iterator for Walk {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        loop {
            match self.pending.pop()? {
                Step::Leave => {
                    self.above.pop();
                }
                Step::Visit { path, named } => {
                    if let Some(found) = self.visit(path, named) {
                        return Some(found);
                    }
                }
            }
        }
    }
}

fn entries(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect()
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

/// The kernel gives up on a link that leads to itself before we can see it; that too is a loop.
fn unreadable(path: PathBuf, error: &std::io::Error) -> Found {
    let is_loop = error.raw_os_error() == Some(libc::ELOOP);
    let reason = if is_loop { Reason::SymlinkLoop } else { Reason::Unreadable };
    Found::Refused { path, refused: Refused::new(reason, error_words(error)) }
}

/// "No such file or directory" without the "(os error 2)".
pub fn error_words(error: &std::io::Error) -> String {
    let words = error.to_string();
    words.split(" (os error").next().unwrap_or_default().to_lowercase()
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::symlink, net::UnixListener};

    use super::*;

    fn names(walk: Walk, root: &Path) -> Vec<String> {
        let short = |path: &Path| path.strip_prefix(root).unwrap_or(path).display().to_string();
        walk.map(|found| match found {
            Found::File { path, bytes } => format!("{} {bytes}", short(&path)),
            Found::Refused { path, refused } => format!("{} {}", short(&path), refused.reason.name()),
            Found::Hidden => "hidden".to_owned(),
            Found::EmptyFolder { path } => format!("{} empty folder", short(&path)),
        })
        .collect()
    }

    #[test]
    fn is_ordered_and_survives_everything_a_folder_can_hold() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let root = directory.path();
        for folder in ["b", "b/deep", "empty", "z"] {
            fs::create_dir(root.join(folder)).expect("folder");
        }
        for (file, text) in
            [("c.txt", "three"), ("a.txt", "a"), ("b/2", "22"), ("b/10", ""), (".hidden", "h")]
        {
            fs::write(root.join(file), text).expect("file");
        }
        symlink(root, root.join("b/deep/up")).expect("link upwards");
        symlink(root.join("self"), root.join("self")).expect("link to itself");
        symlink(root.join("nowhere"), root.join("dangling")).expect("dangling link");
        symlink(root.join("b"), root.join("z/again")).expect("second way");
        let _socket = UnixListener::bind(root.join("socket")).expect("socket");

        let met = names(Walk::new(&[root.to_path_buf()]), root);
        assert_eq!(
            met,
            [
                "hidden",
                "a.txt 1",
                "b/10 0",
                "b/2 2",
                "b/deep/up symlink_loop",
                "c.txt 5",
                "dangling unreadable",
                "empty empty folder",
                "self symlink_loop",
                "socket not_a_file",
                "z/again repeated",
            ]
        );
    }

    #[test]
    fn a_path_that_is_not_there_is_met_too() {
        let met = names(Walk::new(&[PathBuf::from("/nonexistent/x")]), Path::new("/"));
        assert_eq!(met, ["nonexistent/x unreadable"]);
    }
}
