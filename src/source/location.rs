//! Where an index or a store is, as typed: a URL, ssh's `[user@]host:path`, or a path; told apart as casync does.
//! Only text is looked at here, nothing is opened.

use std::fmt;
use std::path::PathBuf;

use super::SourceError;

/// The name of the store that belongs to an index when nobody names another.
const DEFAULT_STORE: &str = "default.castr";

/// A place that a user named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// `scheme://host…`, in full and as typed.
    Url(String),
    /// `[user@]host:path`.
    Ssh {
        /// What is left of the colon.
        host: String,
        /// What is right of it.
        path: String,
    },
    /// A local path.
    Path(PathBuf),
}

impl Location {
    /// Classifies what was typed. Everything that is no URL and no ssh location is a path; `file://` URLs are paths too.
    pub fn parse(text: &str) -> Self {
        let path = || Self::Path(PathBuf::from(text));
        if text.starts_with('/') || text.starts_with("./") || text.starts_with("../") || matches!(text, "." | "..") {
            return path();
        }
        if let Some((scheme, rest)) = text.split_once("://")
            && is_scheme(scheme)
            && !rest.is_empty()
        {
            return match rest.strip_prefix("localhost").unwrap_or(rest) {
                local if scheme == "file" && local.starts_with('/') => Self::Path(PathBuf::from(local)),
                _ => Self::Url(text.to_owned()),
            };
        }
        match split_ssh(text) {
            Some((host, path)) => Self::Ssh { host: host.to_owned(), path: path.to_owned() },
            None => path(),
        }
    }

    /// The last component of the name, without a URL's `?…` and `;…`: what suffixes are matched against.
    pub fn file_name(&self) -> String {
        match self {
            Self::Url(url) => after_last_slash(path_of(url)).to_owned(),
            Self::Ssh { path, .. } => after_last_slash(path).to_owned(),
            Self::Path(path) => path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        }
    }

    /// The store that belongs to the index here: `default.castr` in the same directory.
    pub fn default_store(&self) -> Self {
        match self {
            Self::Url(url) => {
                let url = path_of(url);
                let host = url.find("://").map_or(0, |at| at + 3);
                match url[host..].rfind('/') {
                    Some(at) => Self::Url(format!("{}{DEFAULT_STORE}", &url[..host + at + 1])),
                    None => Self::Url(format!("{url}/{DEFAULT_STORE}")),
                }
            }
            Self::Ssh { host, path } => {
                let directory = path.rfind('/').map_or("", |at| &path[..=at]);
                Self::Ssh { host: host.clone(), path: format!("{directory}{DEFAULT_STORE}") }
            }
            Self::Path(path) => Self::Path(path.with_file_name(DEFAULT_STORE)),
        }
    }

    /// Where the id of the index here is published: its name and `.id`. A URL keeps its `?…` part, which may be the
    /// key to both.
    pub fn id_file(&self) -> Self {
        match self {
            Self::Url(url) => {
                let path = path_of(url);
                Self::Url(format!("{path}.id{}", &url[path.len()..]))
            }
            Self::Ssh { host, path } => Self::Ssh { host: host.clone(), path: format!("{path}.id") },
            Self::Path(path) => {
                let mut name = path.clone().into_os_string();
                name.push(".id");
                Self::Path(name.into())
            }
        }
    }

    /// Refuses what cannot be read: URLs other than those of HTTP, ssh and SFTP.
    ///
    /// # Errors
    /// `Refused`, naming the location and what to use instead.
    pub fn check_supported(&self) -> Result<(), SourceError> {
        match self {
            Self::Url(url) if !is_http(url) && !url.starts_with("ssh://") && !url.starts_with("sftp://") => {
                Err(SourceError::refused(self, "only http://, https://, ssh:// and sftp:// URLs are supported"))
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => f.write_str(url),
            Self::Ssh { host, path } => write!(f, "{host}:{path}"),
            Self::Path(path) => write!(f, "{}", path.display()),
        }
    }
}

impl std::str::FromStr for Location {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self::parse(text))
    }
}

/// The top of a store, as chunk paths are joined to it: a URL without `?…`, `;…` and trailing slashes.
pub(crate) fn store_base(url: &str) -> &str {
    path_of(url).trim_end_matches('/')
}

fn path_of(url: &str) -> &str {
    url.split(['?', ';']).next().unwrap_or(url)
}

fn after_last_slash(text: &str) -> &str {
    text.rsplit('/').next().unwrap_or(text)
}

fn is_http(url: &str) -> bool {
    url.starts_with("http://") || url.starts_with("https://")
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_lowercase())
        && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'+' | b'.' | b'-'))
}

fn split_ssh(text: &str) -> Option<(&str, &str)> {
    let colon = match text.find("]:") {
        Some(bracket) if text.contains('[') => bracket + 1,
        _ => text.find(':')?,
    };
    let (host, path) = (&text[..colon], &text[colon + 1..]);
    let in_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.%@:[]".contains(&byte);
    (!host.is_empty() && !path.is_empty() && host.bytes().all(in_host)).then_some((host, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Location {
        Location::Url(text.to_owned())
    }

    fn ssh(host: &str, path: &str) -> Location {
        Location::Ssh { host: host.to_owned(), path: path.to_owned() }
    }

    #[test]
    fn urls_ssh_locations_and_paths_are_told_apart_as_casync_does() {
        for (text, expected) in [
            ("http://origin/os.caibx", url("http://origin/os.caibx")),
            ("https://u:p@[::1]:8443/os.caibx?x", url("https://u:p@[::1]:8443/os.caibx?x")),
            ("host:images/os.caibx", ssh("host", "images/os.caibx")),
            ("me@host.example:os.caibx", ssh("me@host.example", "os.caibx")),
            ("[::1]:os.caibx", ssh("[::1]", "os.caibx")),
            ("file:///srv/os.caibx", Location::Path("/srv/os.caibx".into())),
            ("./host:os.caibx", Location::Path("./host:os.caibx".into())),
            ("images/a:b", Location::Path("images/a:b".into())),
            ("os.caibx", Location::Path("os.caibx".into())),
            ("host:", Location::Path("host:".into())),
            ("..", Location::Path("..".into())),
        ] {
            assert_eq!(Location::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn the_default_store_lies_beside_the_index() {
        for (index, store) in [
            ("http://origin/images/os.caibx", "http://origin/images/default.castr"),
            ("http://origin/os.caibx?key=/a/b", "http://origin/default.castr"),
            ("http://origin/os.caibx;v=1", "http://origin/default.castr"),
            ("http://origin", "http://origin/default.castr"),
            ("host:images/os.caibx", "host:images/default.castr"),
            ("host:os.caibx", "host:default.castr"),
            ("/srv/os.caibx", "/srv/default.castr"),
            ("os.caibx", "default.castr"),
        ] {
            assert_eq!(Location::parse(index).default_store().to_string(), store, "{index}");
        }
    }

    #[test]
    fn the_id_of_an_index_lies_beside_it_under_the_same_key() {
        for (index, id) in [
            ("http://origin/os.caibx?key=1", "http://origin/os.caibx.id?key=1"),
            ("host:os.caibx", "host:os.caibx.id"),
            ("/srv/os.caibx", "/srv/os.caibx.id"),
        ] {
            assert_eq!(Location::parse(index).id_file().to_string(), id, "{index}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused_by_name() {
        for text in ["ftp://host/store", "lan://host/store"] {
            let error = Location::parse(text).check_supported().unwrap_err().to_string();
            assert!(error.starts_with(text), "{error}");
        }
        for text in ["https://host/store", "ssh://host/store", "sftp://host/store", "host:store", "/store"] {
            assert!(Location::parse(text).check_supported().is_ok(), "{text}");
        }
    }
}
