//! What commands print: tables for people, JSON or YAML for programs. All of it at once and only when the command
//! succeeded, so that stdout is empty after an error.

use std::io::{ErrorKind, IsTerminal, Write};

use clap::ValueEnum;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use crate::failure::{Done, Failure};
use crate::size::Units;

/// The form of what is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Table,
    /// For programs: one JSON document; streams print one a line
    Json,
    /// For programs: one YAML document; streams print several
    Yaml,
}

/// Where and how a command prints.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// The form.
    pub format: Format,
    /// How sizes look in tables.
    pub units: Units,
    /// Rows without titles, names without sentences.
    pub quiet: bool,
}

impl Output {
    /// A size, in the units that the user wants.
    pub fn size(&self, bytes: u64) -> String {
        self.units.show(bytes)
    }

    /// Says that something is done; nothing at all when quiet.
    pub fn done(&self, text: impl AsRef<str>) -> Done {
        #[derive(Serialize)]
        struct Result<'a> {
            result: &'a str,
        }
        match self.format {
            Format::Table if self.quiet => Ok(()),
            Format::Table => print(&format!("{}\n", text.as_ref())),
            _ => self.document(&Result { result: text.as_ref() }),
        }
    }

    /// Says that something was made: a sentence for people, only its name when quiet, the whole of it for programs.
    pub fn made<T: Serialize>(&self, value: &T, name: &str, sentence: impl AsRef<str>) -> Done {
        match self.format {
            Format::Table if self.quiet => print(&format!("{name}\n")),
            Format::Table => print(&format!("{}\n", sentence.as_ref())),
            _ => self.document(value),
        }
    }

    /// Prints a list. A title that begins with `>` is of a column of numbers. `none` is said when the list is empty.
    pub fn list<T: Serialize>(
        &self,
        items: &[T],
        titles: &[&str],
        row: impl Fn(&T) -> Vec<String>,
        none: &str,
    ) -> Done {
        match self.format {
            Format::Table if items.is_empty() && self.quiet => Ok(()),
            Format::Table if items.is_empty() => print(&format!("{none}\n")),
            Format::Table => print(&self.table(titles, items.iter().map(row))),
            _ => self.document(&items),
        }
    }

    /// A table as text.
    pub fn table(&self, titles: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
        let mut table = Table::new();
        table.load_preset(comfy_table::presets::NOTHING);
        if !self.quiet {
            table.set_header(titles.iter().map(|title| title.trim_start_matches('>')));
        }
        for row in rows {
            // An empty cell would make columns hard to count for people and for `awk` alike.
            table.add_row(row.into_iter().map(|cell| if cell.is_empty() { "-".to_owned() } else { cell }));
        }
        for (index, title) in titles.iter().enumerate() {
            if let Some(column) = table.column_mut(index) {
                column.set_padding((0, 2));
                if title.starts_with('>') {
                    column.set_cell_alignment(CellAlignment::Right);
                }
            }
        }
        let mut text = String::new();
        for line in table.to_string().lines() {
            text += line.trim_end();
            text.push('\n');
        }
        text
    }

    /// Prints a value for programs. (With the format `table`, as YAML: a value that has no table is shown so.)
    pub fn document<T: Serialize>(&self, value: &T) -> Done {
        let text = match self.format {
            Format::Json if std::io::stdout().is_terminal() => serde_json::to_string_pretty(value).map(|t| t + "\n"),
            Format::Json => serde_json::to_string(value).map(|t| t + "\n"),
            Format::Yaml | Format::Table => return print(&yaml(value)?),
        };
        print(&text.map_err(Failure::failed)?)
    }

    /// Prints one of a stream of values for programs.
    pub fn item<T: Serialize>(&self, value: &T) -> Done {
        match self.format {
            Format::Yaml => print(&format!("---\n{}", yaml(value)?)),
            _ => print(&format!("{}\n", serde_json::to_string(value).map_err(Failure::failed)?)),
        }
    }
}

fn yaml<T: Serialize>(value: &T) -> Result<String, Failure> {
    serde_norway::to_string(value).map_err(Failure::failed)
}

/// Writes to stdout now. A reader that has gone away ends the command quietly.
pub fn print(text: &str) -> Done {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Failure::NoReader,
        _ => Failure::failed(format!("cannot write to the standard output: {error}")),
    })
}

/// Whether a person looks at stdout.
pub fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(quiet: bool) -> Output {
        Output { format: Format::Table, units: Units::Binary, quiet }
    }

    #[test]
    fn tables_have_titles_and_aligned_numbers() {
        let rows =
            [vec!["p1".to_owned(), "10 MiB".into(), String::new()], vec!["pool-2".into(), "1 GiB".into(), "x".into()]];
        let text = output(false).table(&["NAME", ">USED", "WHY"], rows.clone());
        assert_eq!(text, "NAME      USED  WHY\np1      10 MiB  -\npool-2   1 GiB  x\n");
        assert_eq!(output(true).table(&["NAME", ">USED", "WHY"], rows), "p1      10 MiB  -\npool-2   1 GiB  x\n");
    }
}
