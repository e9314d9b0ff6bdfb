//! A Markdown file as the rules see it: sections, blocks of text, tables, commands, comments.
//!
//! Text keeps the line breaks of its source, so a place in a block has a line without a map.

use std::ops::Range;
use std::path::{Path, PathBuf};

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

use super::quantity::{self, Quantity};

/// A heading; the first section of a document has none.
#[derive(Debug, Clone)]
pub(crate) struct Section {
    pub title: String,
    pub level: u32,
    pub line: u32,
    pub parent: Option<usize>,
}

/// What a block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Heading,
    Paragraph,
    /// An entry of a list, with its box where it has one.
    Item {
        list: u32,
        parent: Option<u32>,
        ticked: Option<bool>,
    },
    /// A fenced or indented block: quoted output, of which only commands are read.
    Code,
}

/// Text of one heading, paragraph, entry or code block, without its markup.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    pub shape: Shape,
    pub section: usize,
    pub line: u32,
    pub text: String,
    /// Code spans of `text`.
    pub codes: Vec<Range<usize>>,
    /// Links of `text` and where they lead.
    pub links: Vec<(usize, String)>,
    /// Line breaks of `text`.
    pub breaks: Vec<u32>,
    /// Numbers of `text`; those inside of quotation marks are another's, and are left out.
    pub quantities: Vec<Quantity>,
}

impl Block {
    /// Line of a byte of the text.
    pub fn line_at(&self, at: usize) -> u32 {
        self.line + self.breaks.partition_point(|break_at| (*break_at as usize) < at) as u32
    }

    /// The sentence around a byte: up to a stop or semicolon and a blank, or so far as anybody reads.
    pub fn sentence(&self, at: usize) -> &str {
        const FAR: usize = 600;
        let bytes = self.text.as_bytes();
        let end = |index: &usize| {
            matches!(bytes[*index], b'.' | b';' | b'?' | b'!')
                && bytes.get(index + 1).is_none_or(u8::is_ascii_whitespace)
        };
        let at = at.min(bytes.len());
        let (least, most) = (at.saturating_sub(FAR), (at + FAR).min(bytes.len()));
        let from = (least..at).rev().find(end).map_or(least, |index| index + 1);
        let to = (at..most).find(end).unwrap_or(most);
        &self.text[self.text.ceil_char_boundary(from)..self.text.floor_char_boundary(to)]
    }

    /// The text up to its first colon, where that ends a lead of a few words.
    pub fn lead(&self) -> Option<&str> {
        let (lead, _) = self.text.split_once(':')?;
        (lead.len() <= 80 && !lead.contains('\n')).then_some(lead.trim())
    }
}

/// A table with plain cells.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub section: usize,
    pub header: Vec<String>,
    pub rows: Vec<(u32, Vec<String>)>,
}

/// An HTML comment.
#[derive(Debug, Clone)]
pub(crate) struct Comment {
    /// Its bytes in the source.
    pub span: Range<usize>,
    /// It stands beside text, and not alone in its lines.
    pub inline: bool,
}

/// A document that was read.
#[derive(Debug)]
pub(crate) struct Document {
    /// As it was given.
    pub name: String,
    /// Where its relative paths begin.
    pub folder: PathBuf,
    pub source: String,
    pub sections: Vec<Section>,
    pub blocks: Vec<Block>,
    pub tables: Vec<Table>,
    pub comments: Vec<Comment>,
}

impl Document {
    /// Reads Markdown.
    pub fn parse(name: &str, source: String) -> Document {
        let folder = Path::new(name).parent().unwrap_or(Path::new("")).to_path_buf();
        let mut builder = Builder::new(&source);
        let options = Options::ENABLE_TABLES | Options::ENABLE_TASKLISTS;
        for (event, span) in Parser::new_ext(&source, options).into_offset_iter() {
            builder.take(event, span);
        }
        let Builder { sections, mut blocks, tables, comments, .. } = builder;
        for block in &mut blocks {
            let breaks = block.text.match_indices('\n').map(|(at, _)| at as u32);
            block.breaks = breaks.collect();
            if block.shape != Shape::Code {
                block.quantities = quantity::scan(&block.text);
                let quoted = quotations(&block.text);
                let own =
                    |q: &Quantity| !quoted.iter().any(|span| span.contains(&(q.start as usize)));
                block.quantities.retain(own);
            }
        }
        Document { name: name.to_owned(), folder, source, sections, blocks, tables, comments }
    }

    /// A section with those that it lies in, innermost first.
    pub fn chain(&self, section: usize) -> impl Iterator<Item = &Section> {
        let mut next = Some(section);
        std::iter::from_fn(move || {
            let section = &self.sections[next?];
            next = section.parent;
            Some(section)
        })
    }

    /// Titles of the chain, joined.
    pub fn titles(&self, section: usize) -> String {
        self.chain(section).map(|section| section.title.as_str()).collect::<Vec<_>>().join(" / ")
    }

    /// Blocks that are no code.
    pub fn prose(&self) -> impl Iterator<Item = &Block> {
        self.blocks.iter().filter(|block| block.shape != Shape::Code)
    }
}

/// Spans between straight or curly quotation marks in one line, of three words or more.
fn quotations(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let mut open = None;
        for (at, mark) in line.char_indices().filter(|(_, c)| matches!(c, '"' | '“' | '”')) {
            match open.take() {
                None => open = Some(at),
                Some(from) if line[from..at].split_whitespace().count() >= 3 => {
                    found.push(start + from..start + at + mark.len_utf8());
                }
                Some(_) => {}
            }
        }
        start += line.len();
    }
    found
}

struct Builder<'a> {
    source: &'a str,
    /// Bytes up to which lines were counted, and their number.
    counted: (usize, u32),
    sections: Vec<Section>,
    blocks: Vec<Block>,
    tables: Vec<Table>,
    comments: Vec<Comment>,
    /// The block that text goes to.
    open: Option<usize>,
    /// Open lists by number, and open entries by block.
    lists: Vec<u32>,
    items: Vec<u32>,
    next_list: u32,
    /// The open cell of the last table.
    cell: Option<String>,
    head: bool,
    html: Option<usize>,
}

impl<'a> Builder<'a> {
    fn new(source: &'a str) -> Builder<'a> {
        let first = Section { title: String::new(), level: 0, line: 1, parent: None };
        Builder {
            source,
            counted: (0, 1),
            sections: vec![first],
            blocks: Vec::new(),
            tables: Vec::new(),
            comments: Vec::new(),
            open: None,
            lists: Vec::new(),
            items: Vec::new(),
            next_list: 0,
            cell: None,
            head: false,
            html: None,
        }
    }

    /// Line of a byte. Events come in order but for a few that begin a little earlier.
    fn line(&mut self, at: usize) -> u32 {
        let (from, lines) = self.counted;
        let breaks = |span: &str| span.bytes().filter(|byte| *byte == b'\n').count() as u32;
        let line = match at >= from {
            true => lines + breaks(&self.source[from..at]),
            false => lines - breaks(&self.source[at..from]),
        };
        self.counted = (at, line);
        line
    }

    fn begin(&mut self, shape: Shape, at: usize) {
        let block = Block {
            shape,
            section: self.sections.len() - 1,
            line: self.line(at),
            text: String::new(),
            codes: Vec::new(),
            links: Vec::new(),
            breaks: Vec::new(),
            quantities: Vec::new(),
        };
        self.open = Some(self.blocks.len());
        self.blocks.push(block);
    }

    fn push(&mut self, text: &str) {
        if let Some(cell) = &mut self.cell {
            cell.push_str(text);
        } else if let Some(open) = self.open {
            self.blocks[open].text.push_str(text);
        }
    }

    fn take(&mut self, event: Event, span: Range<usize>) {
        match event {
            Event::Start(tag) => self.start(tag, span.start),
            Event::End(tag) => self.end(tag),
            Event::Text(text) => self.push(&text),
            Event::Code(text) => {
                if let (None, Some(open)) = (&self.cell, self.open) {
                    let start = self.blocks[open].text.len();
                    self.blocks[open].codes.push(start..start + text.len());
                }
                self.push(&text);
            }
            Event::SoftBreak | Event::HardBreak => self.push("\n"),
            Event::TaskListMarker(done) => {
                let open = self.open.or_else(|| self.items.last().map(|item| *item as usize));
                if let Some(Shape::Item { ticked, .. }) = open.map(|o| &mut self.blocks[o].shape) {
                    *ticked = Some(done);
                }
            }
            Event::Html(text) | Event::InlineHtml(text) => {
                let inline = self.html.is_none();
                let breaks = text.matches('\n').count();
                if inline {
                    self.push(&"\n".repeat(breaks));
                }
                self.comment(&text, span, inline);
            }
            _ => {}
        }
    }

    /// A comment may come in one piece or line by line.
    fn comment(&mut self, text: &str, span: Range<usize>, inline: bool) {
        if let Some(last) = self.comments.last_mut()
            && last.span.end == span.start
            && !self.source[last.span.clone()].trim_end().ends_with("-->")
        {
            last.span.end = span.end;
        } else if text.trim_start().starts_with("<!--") {
            self.comments.push(Comment { span, inline });
        }
    }

    fn start(&mut self, tag: Tag, at: usize) {
        match tag {
            Tag::Heading { level, .. } => {
                let level = level as u32;
                let line = self.line(at);
                let mut parent = self.sections.len() - 1;
                while parent != 0 && self.sections[parent].level >= level {
                    parent = self.sections[parent].parent.unwrap_or(0);
                }
                let parent = Some(parent);
                self.sections.push(Section { title: String::new(), level, line, parent });
                self.begin(Shape::Heading, at);
            }
            Tag::Paragraph => {
                // The first paragraph of an entry is the entry's own text.
                let own = self.items.last().filter(|item| {
                    Some(**item as usize) == self.open
                        && self.blocks[**item as usize].text.is_empty()
                });
                if own.is_none() {
                    self.begin(Shape::Paragraph, at);
                }
            }
            Tag::CodeBlock(kind) => {
                self.begin(Shape::Code, at);
                if let (CodeBlockKind::Fenced(_), Some(open)) = (kind, self.open) {
                    self.blocks[open].line += 1;
                }
            }
            Tag::List(_) => {
                self.lists.push(self.next_list);
                self.next_list += 1;
                self.open = None;
            }
            Tag::Item => {
                let parent = self.items.last().copied();
                let list = self.lists.last().copied().unwrap_or(0);
                self.begin(Shape::Item { list, parent, ticked: None }, at);
                self.items.push(self.open.unwrap_or(0) as u32);
            }
            Tag::HtmlBlock => self.html = Some(at),
            Tag::Table(_) => {
                let section = self.sections.len() - 1;
                self.tables.push(Table { section, header: Vec::new(), rows: Vec::new() });
            }
            Tag::TableHead => self.head = true,
            Tag::TableRow => {
                let line = self.line(at);
                if let Some(table) = self.tables.last_mut() {
                    table.rows.push((line, Vec::new()));
                }
            }
            Tag::TableCell => self.cell = Some(String::new()),
            Tag::Link { dest_url, .. } => {
                if let Some(open) = self.open.filter(|_| self.cell.is_none()) {
                    let at = self.blocks[open].text.len();
                    self.blocks[open].links.push((at, dest_url.into_string()));
                }
            }
            _ => {}
        }
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Heading(_) => {
                if let (Some(open), Some(section)) = (self.open, self.sections.last_mut()) {
                    section.title.clone_from(&self.blocks[open].text);
                }
                self.open = None;
            }
            TagEnd::Paragraph | TagEnd::CodeBlock => self.open = None,
            TagEnd::List(_) => drop(self.lists.pop()),
            TagEnd::Item => {
                self.items.pop();
                self.open = None;
            }
            TagEnd::HtmlBlock => self.html = None,
            TagEnd::TableHead => self.head = false,
            TagEnd::TableCell => self.end_cell(),
            _ => {}
        }
    }

    fn end_cell(&mut self) {
        let (Some(cell), Some(table)) = (self.cell.take(), self.tables.last_mut()) else { return };
        let cells = match table.rows.last_mut() {
            Some((_, cells)) if !self.head => cells,
            _ => &mut table.header,
        };
        cells.push(cell.trim().to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(source: &str, expect: &[(u32, &str)]) {
        let document = Document::parse("a.md", source.to_owned());
        let found: Vec<_> = document.blocks.iter().map(|b| (b.line, b.text.as_str())).collect();
        assert_eq!(found, expect);
    }

    #[test]
    fn blocks_have_their_lines() {
        check("# A\n\ntext\nmore `x`\n", &[(1, "A"), (3, "text\nmore x")]);
        check("- a\n  - b\n- [x] c\n", &[(1, "a"), (2, "b"), (3, "c")]);
        check("- a\n\n  second\n- c\n", &[(1, "a"), (3, "second"), (4, "c")]);
        check("```sh\nls\n```\n", &[(2, "ls\n")]);
    }

    #[test]
    fn tables_have_rows_with_lines() {
        let source = "## T\n\n| a | b (ms) |\n|---|---:|\n| 1 | `2` |\n| 3 | 4 |\n";
        let document = Document::parse("a.md", source.to_owned());
        let table = &document.tables[0];
        assert_eq!(table.header.join(","), "a,b (ms)");
        assert_eq!(table.rows[1], (6, vec!["3".to_owned(), "4".to_owned()]));
        assert_eq!(document.titles(table.section), "T / ");
    }

    #[test]
    fn ticks_and_comments_are_seen() {
        let source = "- [x] done\n- [ ] open\n\n7 GB <!-- a -->\n\n<!-- b\nc -->\n";
        let document = Document::parse("a.md", source.to_owned());
        let ticks: Vec<_> = document
            .blocks
            .iter()
            .filter_map(|block| match block.shape {
                Shape::Item { ticked, .. } => ticked,
                _ => None,
            })
            .collect();
        assert_eq!(ticks, [true, false]);
        let comments: Vec<_> = document
            .comments
            .iter()
            .map(|comment| (source[comment.span.clone()].trim(), comment.inline))
            .collect();
        assert_eq!(comments, [("<!-- a -->", true), ("<!-- b\nc -->", false)]);
    }

    #[test]
    fn a_quotation_is_anothers_number() {
        let document =
            Document::parse("a.md", "They print \"up to 9 TB/s of it\", we 4 GB.".into());
        let units: Vec<_> = document.blocks[0].quantities.iter().map(|q| q.unit).collect();
        assert_eq!(units, ["GB"]);
    }
}
