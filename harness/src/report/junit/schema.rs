//! Jenkins' own schema of JUnit, `fixtures/junit/jenkins-junit-10.xsd` (jenkinsci/xunit-plugin, MIT), read as far
//! as it goes: elements, their attributes and children, and one pattern. What it says beyond that is an error
//! here, so that a newer file is not half read. `.ci/run` asks libxml2 the same.

use std::collections::{BTreeMap, BTreeSet};

use quick_xml::events::{BytesStart, Event};

const SCHEMA: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/junit/jenkins-junit-10.xsd"));

/// The one pattern, and what it is called.
const TIME: &str = "SUREFIRE_TIME";
const PATTERN: &str = r"(([0-9]{0,3},)*[0-9]{3}|[0-9]{0,3})*(\.[0-9]{0,3})?";

/// An element of the schema.
#[derive(Debug, Default)]
struct Element {
    /// Name, type, required.
    attributes: BTreeMap<String, (String, bool)>,
    children: BTreeSet<String>,
    text: bool,
}

/// The schema.
#[derive(Debug)]
pub(super) struct Schema(BTreeMap<String, Element>);

fn attribute(tag: &BytesStart, name: &str) -> Option<String> {
    let attribute = tag.try_get_attribute(name).expect("attributes are well formed")?;
    let value = attribute.normalized_value(quick_xml::XmlVersion::Implicit1_0);
    Some(value.expect("a value").into_owned())
}

impl Schema {
    pub fn read() -> Schema {
        let mut schema = BTreeMap::new();
        let mut reader = quick_xml::Reader::from_str(SCHEMA);
        reader.config_mut().expand_empty_elements = true;
        // The element that is being described, and the named type, which only elements that are never
        // written have.
        let mut named: Option<String> = None;
        let mut skipped = 0_usize;
        let mut reference = false;
        loop {
            match reader.read_event().expect("the schema is well formed") {
                Event::Start(_) if skipped > 0 => skipped += 1,
                Event::End(_) if skipped > 0 => skipped -= 1,
                Event::Start(tag) => match tag.name().as_ref() {
                    "xs:complexType" if attribute(&tag, "name").is_some() => skipped = 1,
                    "xs:element" if named.is_none() => {
                        let name = attribute(&tag, "name").expect("a named element");
                        let text = attribute(&tag, "type").as_deref() == Some("xs:string");
                        schema.insert(name.clone(), Element { text, ..Element::default() });
                        named = Some(name);
                    }
                    "xs:pattern" => assert_eq!(attribute(&tag, "value").as_deref(), Some(PATTERN)),
                    "xs:simpleType" => assert_eq!(attribute(&tag, "name").as_deref(), Some(TIME)),
                    "xs:schema" | "xs:restriction" | "xs:sequence" => {}
                    kind => {
                        let name = named.as_ref().expect("inside of an element");
                        describe(schema.get_mut(name).expect("known"), kind, &tag);
                        reference = kind == "xs:element";
                    }
                },
                Event::End(tag) if tag.name().as_ref() == "xs:element" => {
                    // A reference ends inside of the element that refers.
                    named = named.filter(|_| std::mem::take(&mut reference));
                }
                Event::Eof => break,
                _ => {}
            }
        }
        Schema(schema)
    }

    /// Says where a file does not follow the schema.
    pub fn check(&self, xml: &str) -> Result<(), String> {
        let mut reader = quick_xml::Reader::from_str(xml);
        reader.config_mut().expand_empty_elements = true;
        let mut path: Vec<String> = Vec::new();
        loop {
            match reader.read_event().map_err(|error| error.to_string())? {
                Event::Start(tag) => {
                    let name = tag.name().as_ref().to_owned();
                    self.element(&tag, &name, path.last().map(String::as_str))?;
                    path.push(name);
                }
                Event::End(_) => drop(path.pop()),
                Event::Text(text) if !text.as_ref().trim().is_empty() => self.text(&path)?,
                Event::CData(_) | Event::GeneralRef(_) => self.text(&path)?,
                Event::Eof => return Ok(()),
                _ => {}
            }
        }
    }

    fn text(&self, path: &[String]) -> Result<(), String> {
        let holds = path.last().and_then(|name| self.0.get(name)).is_some_and(|one| one.text);
        if holds { Ok(()) } else { Err(format!("{path:?} holds text")) }
    }

    fn element(&self, tag: &BytesStart, name: &str, parent: Option<&str>) -> Result<(), String> {
        let element = self.0.get(name).ok_or_else(|| format!("there is no {name}"))?;
        if let Some(parent) = parent
            && !self.0[parent].children.contains(name)
        {
            return Err(format!("{name} inside of {parent}"));
        }
        for found in tag.attributes() {
            let found = found.map_err(|error| error.to_string())?;
            let key: &str = found.key.as_ref();
            let (kind, _) = element.attributes.get(key).ok_or(format!("{name} with {key}"))?;
            let value = attribute(tag, key).unwrap_or_default();
            if kind == TIME && !is_time(&value) {
                return Err(format!("{key}={value:?} of {name} is no {TIME}"));
            }
        }
        let lacking = |(key, (_, required)): &(&String, &(String, bool))| {
            *required && attribute(tag, key).is_none()
        };
        match element.attributes.iter().find(lacking) {
            Some((key, _)) => Err(format!("{name} without {key}")),
            None => Ok(()),
        }
    }
}

/// Takes one line of an element's description.
fn describe(element: &mut Element, kind: &str, tag: &BytesStart) {
    match kind {
        "xs:complexType" => element.text = attribute(tag, "mixed").as_deref() == Some("true"),
        // In any order and number.
        "xs:choice" => assert_eq!(attribute(tag, "maxOccurs").as_deref(), Some("unbounded")),
        "xs:element" => {
            element.children.insert(attribute(tag, "ref").expect("a reference"));
        }
        "xs:attribute" => {
            let of = |name: &str| attribute(tag, name);
            let (name, kind) = (of("name").expect("a name"), of("type").expect("a type"));
            assert!(kind == "xs:string" || kind == TIME, "type {kind}");
            element.attributes.insert(name, (kind, of("use").as_deref() == Some("required")));
        }
        other => panic!("the schema says {other}, which this does not read"),
    }
}

/// Digits, and at most three decimals: [`PATTERN`] without its commas, which are never written.
fn is_time(value: &str) -> bool {
    let (whole, decimals) = value.split_once('.').unwrap_or((value, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    digits(whole) && digits(decimals) && decimals.len() <= 3
}

#[track_caller]
fn check(xml: &str, expect: Result<(), &str>) {
    assert_eq!(Schema::read().check(xml), expect.map_err(str::to_owned), "{xml}");
}

#[test]
fn what_the_schema_refuses_is_refused() {
    let suite = |more: &str, inside: &str| {
        let counts = "name=\"a\" tests=\"1\" failures=\"0\" errors=\"0\"";
        format!("<testsuites><testsuite {counts}{more}>{inside}</testsuite></testsuites>")
    };
    check(
        &suite(" time=\"1.234\"", "<testcase name=\"a\"><skipped>no</skipped></testcase>"),
        Ok(()),
    );
    let long = "time=\"1.2349999999999999\" of testsuite is no SUREFIRE_TIME";
    check(&suite(" time=\"1.2349999999999999\"", ""), Err(long));
    check(&suite(" time=\"NaN\"", ""), Err("time=\"NaN\" of testsuite is no SUREFIRE_TIME"));
    check(&suite(" disabled=\"0\"", ""), Err("testsuite with disabled"));
    check(&suite("", "<testcase/>"), Err("testcase without name"));
    check(&suite("", "<failure/>"), Err("failure inside of testsuite"));
    check(&suite("", "<result/>"), Err("there is no result"));
    check(&suite("", "words"), Err("[\"testsuites\", \"testsuite\"] holds text"));
}
