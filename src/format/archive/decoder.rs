//! Bytes to nodes, however the bytes are split. Content is handed through as it comes, and can be left out by whoever
//! knows where it lies.

use super::encoder::is_name;
use super::goodbye::{self, Item};
use super::node::{Draft, text};
use super::record::*;
use super::{ArchiveError, Entry, Kind, MAX_DEPTH, Problem};

/// A node as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name in its directory; empty for the top.
    pub name: Vec<u8>,
    /// Where its ENTRY begins.
    pub offset: u64,
    /// What it is.
    pub entry: Entry,
}

/// What comes out of an archive. Each node is one `Enter` and one `Leave`, with its content or its children between.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A node; also its directory's next child.
    Enter(&'a Node),
    /// The next bytes of the file that was entered last.
    Content(&'a [u8]),
    /// The innermost node is complete.
    Leave,
    /// So is the archive. Whatever follows is not looked at.
    End,
}

/// Reads an archive, or a part of it that is a node.
#[derive(Debug)]
pub struct Decoder {
    features: Option<u64>,
    /// Where the next byte lies.
    offset: u64,
    /// Where the record that is being read begins.
    at: u64,
    /// Where a node that is read alone ends; `None` for a whole archive.
    end: Option<u64>,
    state: State,
    /// What there is of the record that is being read.
    record: Vec<u8>,
    /// The node whose metadata are being read, and where its ENTRY is.
    draft: Option<(u64, Draft)>,
    /// The name of the node that is next, and where its FILENAME is.
    next: Option<(u64, Vec<u8>)>,
    /// The node that was entered last.
    current: Option<Node>,
    open: Vec<Directory>,
    base: Vec<u8>,
}

#[derive(Debug)]
struct Directory {
    name: Vec<u8>,
    start: u64,
    entry: u64,
    items: Vec<Item>,
    last: Vec<u8>,
}

#[derive(Debug)]
enum State {
    /// At a record, or inside one.
    Record,
    /// In content of which that much is left.
    Content(u64),
    /// In a lookup table, which must be these bytes from that place on.
    Goodbye(Vec<u8>, usize),
    /// The innermost node is complete.
    Leave,
    End,
}

enum Step<'a> {
    Enter,
    Content(&'a [u8]),
    Leave,
    End,
}

impl Decoder {
    /// A decoder for a whole archive; `features` is the word that it must have, if an index says so.
    pub fn new(features: Option<u64>) -> Self {
        Self::start(features, 0, None, Vec::new())
    }

    /// A decoder for one node of an archive, from its ENTRY at `offset` to its end. `path` is what errors call it.
    pub fn part(features: u64, offset: u64, end: u64, path: Vec<u8>) -> Self {
        Self::start(Some(features), offset, Some(end), path)
    }

    fn start(features: Option<u64>, offset: u64, end: Option<u64>, base: Vec<u8>) -> Self {
        Self {
            features,
            offset,
            at: offset,
            end,
            state: State::Record,
            record: Vec::new(),
            draft: None,
            next: None,
            current: None,
            open: Vec::new(),
            base,
        }
    }

    /// Takes from `input` what makes the next event. `None`: all of it was taken, and more is needed.
    ///
    /// # Errors
    /// What is wrong with the archive. There is no going on after that.
    pub fn next<'s, 'i: 's>(&'s mut self, input: &mut &'i [u8]) -> Result<Option<Event<'s>>, ArchiveError> {
        match self.step(input) {
            Ok(Some(Step::Enter)) => Ok(self.current.as_ref().map(Event::Enter)),
            Ok(Some(Step::Content(bytes))) => Ok(Some(Event::Content(bytes))),
            Ok(Some(Step::Leave)) => Ok(Some(Event::Leave)),
            Ok(Some(Step::End)) => Ok(Some(Event::End)),
            Ok(None) => Ok(None),
            Err(problem) => Err(ArchiveError { offset: self.at, path: self.path(), problem }),
        }
    }

    /// The error to give when there is nothing more and no [`Event::End`] came.
    pub fn truncated(&self) -> ArchiveError {
        ArchiveError { offset: self.offset, path: self.path(), problem: Problem::Truncated }
    }

    /// How much content of the file that was entered last is still to come.
    pub fn content_left(&self) -> u64 {
        match self.state {
            State::Content(left) => left,
            _ => 0,
        }
    }

    /// Leaves out the content that is still to come: the next byte that is given is the one behind it.
    pub fn skip_content(&mut self) {
        if let State::Content(left) = &mut self.state {
            self.offset += *left;
            *left = 0;
        }
    }

    /// Where the next byte lies in the archive.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The feature flags word, as soon as it is known.
    pub fn features(&self) -> Option<u64> {
        self.features
    }

    /// The path of the innermost node, without a slash at its beginning.
    pub fn path(&self) -> Vec<u8> {
        let mut path = self.base.clone();
        let next = self.next.as_ref().map(|(_, name)| name);
        let current = self.current.as_ref().filter(|node| !node.entry.is_directory()).map(|node| &node.name);
        for name in self.open.iter().map(|directory| &directory.name).chain(next).chain(current) {
            if !path.is_empty() && !name.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
        }
        path
    }

    fn step<'i>(&mut self, input: &mut &'i [u8]) -> Result<Option<Step<'i>>, Problem> {
        loop {
            match &mut self.state {
                State::End => return Ok(Some(Step::End)),
                State::Leave | State::Content(0) => {
                    self.current = None;
                    self.state = if self.open.is_empty() { State::End } else { State::Record };
                    return Ok(Some(Step::Leave));
                }
                State::Content(left) => {
                    let bytes = take(input, *left);
                    if bytes.is_empty() {
                        return Ok(None);
                    }
                    *left -= bytes.len() as u64;
                    self.offset += bytes.len() as u64;
                    return Ok(Some(Step::Content(bytes)));
                }
                State::Goodbye(table, done) => {
                    let bytes = take(input, (table.len() - *done) as u64);
                    if !table[*done..].starts_with(bytes) {
                        return Err(Problem::Invalid("a lookup table that does not say what the directory holds"));
                    }
                    *done += bytes.len();
                    self.offset += bytes.len() as u64;
                    if *done < table.len() {
                        return Ok(None);
                    }
                    self.leave_directory();
                }
                State::Record => match self.record(input)? {
                    Progress::Step(step) => return Ok(Some(step)),
                    Progress::Starved => return Ok(None),
                    Progress::Taken => {}
                },
            }
        }
    }

    fn record<'i>(&mut self, input: &mut &'i [u8]) -> Result<Progress<'i>, Problem> {
        if self.record.is_empty() {
            self.at = self.offset;
            // A node that is read alone may be of a kind that nothing but its end ends.
            if self.open.is_empty() && self.end == Some(self.offset) && self.draft.is_some() {
                return self.enter(Draft::plain);
            }
        }
        if !self.fill(HEADER, input) {
            return Ok(Progress::Starved);
        }
        let word = |at: usize| self.record[at..at + 8].iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        let (size, mark) = (word(0), word(8));
        match mark {
            // The record is not this node's any more and is looked at again.
            FILENAME | GOODBYE if self.draft.is_some() => self.enter(Draft::plain),
            GOODBYE => self.goodbye(size),
            PAYLOAD => {
                self.record.clear();
                let length = size.checked_sub(HEADER).ok_or(Problem::Size(name(mark), size))?;
                // No file is longer than what a signed 64-bit number counts, and no archive either.
                match self.offset.checked_add(length) {
                    Some(end) if end <= i64::MAX as u64 => self.enter(|draft| draft.file(length)),
                    _ => Err(Problem::Size(name(mark), size)),
                }
            }
            _ => {
                let (least, most) = sizes(mark).ok_or(Problem::UnknownRecord(mark))?;
                if size < least || size > most {
                    return Err(Problem::Size(name(mark), size));
                }
                if !self.fill(size, input) {
                    return Ok(Progress::Starved);
                }
                let mut record = std::mem::take(&mut self.record);
                let progress = self.whole(mark, &record[HEADER as usize..])?;
                record.clear();
                self.record = record;
                Ok(progress)
            }
        }
    }

    /// Takes from `input` until the record has `size` bytes, or there are no more.
    fn fill(&mut self, size: u64, input: &mut &[u8]) -> bool {
        let bytes = take(input, size - (self.record.len() as u64).min(size));
        self.record.extend_from_slice(bytes);
        self.offset += bytes.len() as u64;
        self.record.len() as u64 >= size
    }

    /// A record that is complete.
    fn whole<'i>(&mut self, mark: u64, body: &[u8]) -> Result<Progress<'i>, Problem> {
        match (mark, &mut self.draft) {
            (FILENAME, None) => self.filename(text(body)?)?,
            (ENTRY, draft @ None) if self.next.is_some() || self.open.is_empty() => {
                let begun = Draft::begin(body, self.features)?;
                self.features = Some(begun.features());
                *draft = Some((self.at, begun));
            }
            (SYMLINK | DEVICE, Some(_)) => return self.enter(|draft| draft.special(mark, body)),
            (_, Some((_, draft))) => draft.add(mark, body)?,
            (_, None) => return Err(Problem::Misplaced(name(mark))),
        }
        Ok(Progress::Taken)
    }

    fn filename(&mut self, name: &[u8]) -> Result<(), Problem> {
        let depth = self.open.len();
        let directory = match self.open.last_mut() {
            Some(directory) if self.next.is_none() => directory,
            _ => return Err(Problem::Misplaced("FILENAME")),
        };
        if !is_name(name) {
            return Err(Problem::Invalid("a file name that may not be: ., .., or with a slash"));
        }
        if name <= directory.last.as_slice() {
            return Err(Problem::Invalid("a file name that is there twice or out of order"));
        }
        if depth >= MAX_DEPTH {
            return Err(Problem::TooDeep);
        }
        directory.last.clear();
        directory.last.extend_from_slice(name);
        self.next = Some((self.at, name.to_owned()));
        Ok(())
    }

    /// Completes the metadata of a node with its last record.
    fn enter<'i>(&mut self, complete: impl FnOnce(Draft) -> Result<Entry, Problem>) -> Result<Progress<'i>, Problem> {
        let (offset, draft) = self.draft.take().ok_or(Problem::Misplaced("PAYLOAD"))?;
        let entry = complete(draft)?;
        let whole = self.end.is_none();
        let (start, name) = match self.next.take() {
            Some(next) => next,
            None if entry.is_directory() || !whole => (offset, Vec::new()),
            None => return Err(Problem::Invalid("a top that is no directory")),
        };
        if let Kind::Directory = entry.kind {
            let (name, items, last) = (name.clone(), Vec::new(), Vec::new());
            self.open.push(Directory { name, start, entry: offset, items, last });
        } else {
            let size = if let Kind::File { size } = entry.kind { size } else { 0 };
            // What there is of the next record was counted already.
            let end = self.offset - self.record.len() as u64 + size;
            self.add(&name, start, end);
            self.state = if size > 0 { State::Content(size) } else { State::Leave };
        }
        self.current = Some(Node { name, offset, entry });
        Ok(Progress::Step(Step::Enter))
    }

    fn goodbye<'i>(&mut self, size: u64) -> Result<Progress<'i>, Problem> {
        let directory = match self.open.last_mut() {
            Some(directory) if self.next.is_none() => directory,
            _ => return Err(Problem::Misplaced("GOODBYE")),
        };
        let items = std::mem::take(&mut directory.items);
        // A table may be left out, as casync allows; then nobody finds anything by it.
        let items = if size == goodbye::size(0) { Vec::new() } else { items };
        if size != goodbye::size(items.len()) {
            return Err(Problem::Size("GOODBYE", size));
        }
        let mut table = Vec::with_capacity(size as usize);
        goodbye::write(self.at, directory.entry, items, &mut table);
        let done = self.record.len();
        self.record.clear();
        self.state = State::Goodbye(table, done);
        Ok(Progress::Taken)
    }

    fn leave_directory(&mut self) {
        if let Some(directory) = self.open.pop() {
            self.add(&directory.name, directory.start, self.offset);
        }
        self.state = State::Leave;
    }

    fn add(&mut self, name: &[u8], start: u64, end: u64) {
        if let Some(parent) = self.open.last_mut() {
            parent.items.push(Item { hash: goodbye::hash(name), start, end });
        }
    }
}

enum Progress<'a> {
    Step(Step<'a>),
    Starved,
    Taken,
}

/// Takes up to so many bytes off the front.
fn take<'i>(input: &mut &'i [u8], most: u64) -> &'i [u8] {
    let length = usize::try_from(most).unwrap_or(usize::MAX).min(input.len());
    let (bytes, rest) = input.split_at(length);
    *input = rest;
    bytes
}
