//! Markdown into sections, blocks and tables, one event of the parser after the other.

use std::ops::Range;

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

use super::document::{Block, Comment, Section, Shape, Table};

/// What was read so far.
pub(crate) struct Reader<'a> {
    source: &'a str,
    /// Bytes up to which lines were counted, and their number.
    counted: (usize, u32),
    pub sections: Vec<Section>,
    pub blocks: Vec<Block>,
    pub tables: Vec<Table>,
    pub comments: Vec<Comment>,
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

impl<'a> Reader<'a> {
    /// Reads a whole source.
    pub fn read(source: &'a str) -> Reader<'a> {
        let mut reader = Reader::new(source);
        let options = Options::ENABLE_TABLES | Options::ENABLE_TASKLISTS;
        for (event, span) in Parser::new_ext(source, options).into_offset_iter() {
            reader.take(event, span);
        }
        reader
    }

    fn new(source: &'a str) -> Reader<'a> {
        let first = Section { title: String::new(), level: 0, line: 1, parent: None };
        Reader {
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
            Tag::Heading { level, .. } => self.heading(level as u32, at),
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

    fn heading(&mut self, level: u32, at: usize) {
        let line = self.line(at);
        let mut parent = self.sections.len() - 1;
        while parent != 0 && self.sections[parent].level >= level {
            parent = self.sections[parent].parent.unwrap_or(0);
        }
        let parent = Some(parent);
        self.sections.push(Section { title: String::new(), level, line, parent });
        self.begin(Shape::Heading, at);
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
