//! The table as people read it, which is what is expected as well.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Where in the tables something stands: the section, the row, the column.
pub(super) type Place = (String, String, String);

/// Tables under titles.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    sections: Vec<Section>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Section {
    title: String,
    columns: Vec<String>,
    rows: Vec<(String, Vec<String>)>,
}

/// What stands where nothing can be tried.
const NOTHING: &str = "·";

/// What stands between what is so without `br_netfilter` and what is so with it.
const WITH: &str = "; with br_netfilter ";

impl Page {
    /// The tables of a text.
    pub fn parse(text: &str) -> Self {
        let mut page = Self::default();
        for line in text.lines() {
            if let Some(title) = line.strip_prefix("## ") {
                page.sections.push(Section { title: title.to_owned(), ..Section::default() });
            }
            let (Some(section), Some(row)) = (page.sections.last_mut(), line.strip_prefix("| "))
            else {
                continue;
            };
            let row = row.trim_end_matches(" |");
            let mut cells = row.split(" | ").map(|cell| cell.trim().to_owned());
            let first = cells.next().unwrap_or_default();
            if section.columns.is_empty() {
                section.columns = cells.collect();
            } else {
                section.rows.push((first, cells.collect()));
            }
        }
        page.sections.retain(|section| !section.columns.is_empty());
        page
    }

    /// The tables as Markdown.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for Section { title, columns, rows } in &self.sections {
            let _ = write!(text, "\n## {title}\n\n| from | {} |\n|---|", columns.join(" | "));
            text += &"---|".repeat(columns.len());
            text.push('\n');
            for (row, cells) in rows {
                let _ = writeln!(text, "| {row} | {} |", cells.join(" | "));
            }
        }
        text
    }

    /// What it says of a kernel without `br_netfilter`.
    #[must_use]
    pub fn without_br_netfilter(&self) -> Self {
        let mut without = self.clone();
        for (place, text) in self.cells() {
            without.set(&place, text.split(WITH).next().unwrap_or_default());
        }
        without
    }

    /// Where it says something else than another: section, row, column, and what each of them says.
    pub fn differences(&self, other: &Self) -> Vec<[String; 5]> {
        let [ours, theirs] = [self.cells(), other.cells()];
        let said = |cells: &BTreeMap<Place, String>, place: &Place| {
            cells.get(place).cloned().unwrap_or_else(|| NOTHING.to_owned())
        };
        // In the order of our tables, and then of what is in theirs alone.
        let places = self.places().into_iter();
        let places = places.chain(other.places().into_iter().filter(|p| !ours.contains_key(p)));
        let both = places.map(|place| {
            let [one, two] = [said(&ours, &place), said(&theirs, &place)];
            let (section, row, column) = place;
            [section, row, column, one, two]
        });
        both.filter(|[.., one, two]| one != two).collect()
    }

    /// What stands where.
    pub(super) fn at(&self, place: &Place) -> Option<&str> {
        let section = self.sections.iter().find(|section| section.title == place.0)?;
        let column = section.columns.iter().position(|column| *column == place.2)?;
        let (_, cells) = section.rows.iter().find(|(row, _)| *row == place.1)?;
        cells.get(column).map(String::as_str)
    }

    /// Whether something of a cell is expected to be reached.
    pub(super) fn expects(&self, place: &Place, word: &str) -> bool {
        let text = self.at(place).unwrap_or_default();
        text == "yes" || text.split(", ").any(|reached| reached == word)
    }

    /// Writes a cell. Sections, rows and columns stand in the order in which they came.
    pub(super) fn set(&mut self, (title, row, column): &Place, text: &str) {
        let known = self.sections.iter().position(|section| section.title == *title);
        let known = known.unwrap_or_else(|| {
            self.sections.push(Section { title: title.clone(), ..Section::default() });
            self.sections.len() - 1
        });
        let Section { columns, rows, .. } = &mut self.sections[known];
        if !columns.contains(column) {
            columns.push(column.clone());
        }
        if !rows.iter().any(|(name, _)| name == row) {
            rows.push((row.clone(), Vec::new()));
        }
        let at = columns.iter().position(|name| name == column).unwrap_or_default();
        for (name, cells) in rows {
            if cells.len() < columns.len() {
                cells.resize(columns.len(), NOTHING.to_owned());
            }
            if name == row {
                text.clone_into(&mut cells[at]);
            }
        }
    }

    /// Both in one: a cell that differs says both.
    pub(super) fn beside(&self, with: &Self) -> Self {
        let mut both = self.clone();
        for (place, text) in with.cells() {
            let without = self.at(&place).unwrap_or(NOTHING);
            if without != text {
                both.set(&place, &format!("{without}{WITH}{text}"));
            }
        }
        both
    }

    fn cells(&self) -> BTreeMap<Place, String> {
        let cells = self.sections.iter().flat_map(|section| &section.rows);
        let cells = cells.flat_map(|(_, cells)| cells.iter().cloned());
        self.places().into_iter().zip(cells).collect()
    }

    /// All places, in the order in which they stand.
    fn places(&self) -> Vec<Place> {
        let mut all = Vec::new();
        for Section { title, columns, rows } in &self.sections {
            for (row, cells) in rows {
                let columns = columns.iter().take(cells.len());
                all.extend(columns.map(|column| (title.clone(), row.clone(), column.clone())));
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(section: &str, row: &str, column: &str) -> Place {
        (section.to_owned(), row.to_owned(), column.to_owned())
    }

    #[test]
    fn a_page_is_read_back_as_it_was_written() {
        let mut page = Page::default();
        page.set(&place("A", "the host", "IPv4"), "yes");
        page.set(&place("A", "outside", "IPv6"), "published, local/tcp");
        page.set(&place("B", "outside", "IPv4"), "no");
        assert_eq!(Page::parse(&format!("# Title\n\nWords.\n{}", page.render())), page);
        assert_eq!(page.at(&place("A", "the host", "IPv6")), Some(NOTHING));
    }

    #[test]
    fn a_cell_expects_what_it_names_and_yes_everything() {
        let mut page = Page::default();
        let (some, all) = (place("A", "x", "y"), place("A", "x", "z"));
        page.set(&some, "published, local/tcp");
        page.set(&all, "yes");
        assert!(page.expects(&some, "published") && page.expects(&some, "local/tcp"));
        assert!(!page.expects(&some, "unpublished") && page.expects(&all, "unpublished"));
    }

    #[test]
    fn what_differs_is_told_with_its_place() {
        let (mut ours, mut theirs) = (Page::default(), Page::default());
        ours.set(&place("A", "x", "y"), "no");
        theirs.set(&place("A", "x", "y"), "yes");
        assert!(ours.differences(&ours).is_empty());
        assert_eq!(ours.differences(&theirs), [["A", "x", "y", "no", "yes"]]);
        let both = ours.beside(&theirs);
        assert_eq!(both.at(&place("A", "x", "y")), Some("no; with br_netfilter yes"));
        assert_eq!(both.without_br_netfilter(), ours);
    }
}
