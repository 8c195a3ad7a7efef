//! From tokens to statements: declarations, labels and instructions, still without meaning.

use std::fmt;

use crate::lex::{Kind, Token, tokens};

/// Text that is not PTX, or not the part of it that is understood here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// Line of the text, from 1.
    pub line: u32,
    /// What is wrong there.
    pub message: String,
}

impl ParseError {
    pub(crate) fn new(line: u32, message: impl Into<String>) -> Self {
        ParseError {
            line,
            message: message.into(),
        }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

impl std::error::Error for ParseError {}

type Result<T> = std::result::Result<T, ParseError>;

/// What stands between commas.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operand {
    /// A register, a label, a variable or a special register.
    Name(String),
    /// `!p`
    Not(String),
    /// An integer constant; negative ones in two's complement.
    Int(u64),
    /// A floating-point constant.
    Float(f64),
    /// `0f...`: the bits of an f32.
    Bits32(u32),
    /// `0d...`: the bits of an f64.
    Bits64(u64),
    /// `{a, b, ...}`
    Vector(Vec<Operand>),
    /// `[base + offset]`; no base for an absolute address.
    Address(Option<String>, i64),
    /// `a|b`
    Pair(Box<Operand>, Box<Operand>),
}

/// One instruction as written.
#[derive(Clone, Debug)]
pub(crate) struct Statement {
    /// Guard: register, and whether it is negated.
    pub guard: Option<(String, bool)>,
    /// `add.rn.f32` as `["add", "rn", "f32"]`.
    pub opcode: Vec<String>,
    pub operands: Vec<Operand>,
    pub line: u32,
    /// The source, white space collapsed, without the semicolon.
    pub text: String,
}

/// What a body consists of.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    Label(String, u32),
    Registers {
        class: String,
        names: Vec<String>,
        line: u32,
    },
    Variable(Variable),
    Instruction(Statement),
    /// `{` and `}` within a body: names declared inside are not known outside.
    Open,
    Close,
}

/// A variable in a state space.
#[derive(Clone, Debug)]
pub(crate) struct Variable {
    pub space: String,
    pub name: String,
    pub align: u64,
    /// Bytes of one element.
    pub element: u64,
    /// Elements; `None` for `name[]`, whose size is the launch's.
    pub count: Option<u64>,
    pub values: Vec<Operand>,
    pub line: u32,
}

/// A kernel.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    pub name: String,
    pub line: u32,
    /// Type and name.
    pub parameters: Vec<(String, String, u32)>,
    pub max_threads: Option<u32>,
    pub body: Vec<Item>,
}

/// A whole file.
#[derive(Clone, Debug, Default)]
pub(crate) struct File {
    pub version: Option<(String, u32)>,
    pub target: Option<(String, u32)>,
    pub variables: Vec<Variable>,
    pub kernels: Vec<Kernel>,
}

/// Reads a file.
pub(crate) fn file(text: &str) -> Result<File> {
    let tokens = tokens(text)?;
    Parser {
        text,
        tokens: &tokens,
        at: 0,
    }
    .file()
}

struct Parser<'a> {
    text: &'a str,
    tokens: &'a [Token<'a>],
    at: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<Kind<'a>> {
        self.tokens.get(self.at).map(|t| t.kind)
    }

    fn line(&self) -> u32 {
        let last = self.tokens.len().saturating_sub(1);
        self.tokens.get(self.at.min(last)).map_or(1, |t| t.line)
    }

    fn error<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(ParseError::new(self.line(), message))
    }

    fn found(&self) -> String {
        match self.peek() {
            Some(Kind::Word(w)) => format!("`{w}`"),
            Some(Kind::Punct(c)) => format!("`{c}`"),
            Some(Kind::Text(t)) => format!("\"{t}\""),
            None => "the end of the text".into(),
        }
    }

    fn eat(&mut self, c: char) -> bool {
        let is = self.peek() == Some(Kind::Punct(c));
        self.at += usize::from(is);
        is
    }

    fn expect(&mut self, c: char) -> Result<()> {
        if self.eat(c) {
            return Ok(());
        }
        self.error(format!("expected `{c}`, found {}", self.found()))
    }

    fn word(&mut self, what: &str) -> Result<&'a str> {
        match self.peek() {
            Some(Kind::Word(w)) => {
                self.at += 1;
                Ok(w)
            }
            _ => self.error(format!("expected {what}, found {}", self.found())),
        }
    }

    fn eat_word(&mut self, word: &str) -> bool {
        let is = self.peek() == Some(Kind::Word(word));
        self.at += usize::from(is);
        is
    }

    fn file(mut self) -> Result<File> {
        let mut file = File::default();
        while let Some(kind) = self.peek() {
            let line = self.line();
            match kind {
                Kind::Word(".version") => {
                    self.at += 1;
                    file.version = Some((self.word("a version")?.into(), line));
                }
                Kind::Word(".target") => {
                    self.at += 1;
                    file.target = Some((self.word("a target")?.into(), line));
                    if self.eat(',') {
                        let line = self.line();
                        let option = self.word("a target option")?;
                        return Err(ParseError::new(
                            line,
                            format!("unknown target option {option}"),
                        ));
                    }
                }
                Kind::Word(".address_size") => {
                    self.at += 1;
                    let line = self.line();
                    if self.word("64")? != "64" {
                        return Err(ParseError::new(line, "only .address_size 64 is understood"));
                    }
                }
                Kind::Word(".visible" | ".extern" | ".weak") => self.at += 1,
                Kind::Word(".entry") => {
                    self.at += 1;
                    let kernel = self.kernel(line)?;
                    file.kernels.push(kernel);
                }
                Kind::Word(".shared" | ".const" | ".global") => {
                    let variables = self.variables()?;
                    file.variables.extend(variables);
                }
                _ => return self.error(format!("unknown directive {}", self.found())),
            }
        }
        if file.version.is_none() {
            return Err(ParseError::new(1, "no .version directive"));
        }
        if file.target.is_none() {
            return Err(ParseError::new(1, "no .target directive"));
        }
        Ok(file)
    }

    fn kernel(&mut self, line: u32) -> Result<Kernel> {
        let name = self.word("the entry's name")?.to_string();
        let mut parameters = Vec::new();
        if self.eat('(') && !self.eat(')') {
            loop {
                let line = self.line();
                if !self.eat_word(".param") {
                    return self.error(format!("expected .param, found {}", self.found()));
                }
                let class = self.word("a type")?.to_string();
                let name = self.word("a parameter's name")?.to_string();
                parameters.push((class, name, line));
                if !self.eat(',') {
                    break;
                }
            }
            self.expect(')')?;
        }
        let mut max_threads = None;
        loop {
            match self.peek() {
                Some(Kind::Word(".maxntid" | ".reqntid")) => {
                    self.at += 1;
                    let mut product = 1u32;
                    loop {
                        let word = self.word("a number of threads")?;
                        let n: u32 = match word.parse() {
                            Ok(n) => n,
                            Err(_) => return self.error(format!("`{word}` is not a number")),
                        };
                        product = product.saturating_mul(n);
                        if !self.eat(',') {
                            break;
                        }
                    }
                    max_threads = Some(product);
                }
                // Hints for the register allocator of a real compiler.
                Some(Kind::Word(".minnctapersm" | ".maxnreg" | ".maxnctapersm")) => {
                    self.at += 1;
                    self.word("a number")?;
                }
                _ => break,
            }
        }
        self.expect('{')?;
        let body = self.body()?;
        Ok(Kernel {
            name,
            line,
            parameters,
            max_threads,
            body,
        })
    }

    /// Up to and with the closing brace of the kernel.
    fn body(&mut self) -> Result<Vec<Item>> {
        let mut items = Vec::new();
        let mut depth = 0;
        loop {
            let line = self.line();
            match self.peek() {
                None => return self.error("the body of a kernel never ends"),
                Some(Kind::Punct('}')) => {
                    self.at += 1;
                    if depth == 0 {
                        return Ok(items);
                    }
                    depth -= 1;
                    items.push(Item::Close);
                }
                Some(Kind::Punct('{')) => {
                    self.at += 1;
                    depth += 1;
                    items.push(Item::Open);
                }
                Some(Kind::Word(".reg")) => {
                    self.at += 1;
                    let class = self.word("a register type")?.to_string();
                    let mut names = Vec::new();
                    loop {
                        let name = self.word("a register")?;
                        if self.eat('<') {
                            // `%r<5>` declares %r0 .. %r4.
                            let count = self.word("a number of registers")?;
                            let Ok(count) = count.parse::<u32>() else {
                                return self.error(format!("`{count}` is not a number"));
                            };
                            self.expect('>')?;
                            names.extend((0..count).map(|i| format!("{name}{i}")));
                        } else {
                            names.push(name.to_string());
                        }
                        if !self.eat(',') {
                            break;
                        }
                    }
                    self.expect(';')?;
                    items.push(Item::Registers { class, names, line });
                }
                Some(Kind::Word(".shared" | ".local" | ".const")) => {
                    items.extend(self.variables()?.into_iter().map(Item::Variable));
                }
                Some(Kind::Word(".pragma")) => {
                    self.at += 1;
                    if !matches!(self.peek(), Some(Kind::Text(_))) {
                        return self.error("expected a string after .pragma");
                    }
                    self.at += 1;
                    self.expect(';')?;
                }
                Some(Kind::Word(w)) if w.starts_with('.') => {
                    return self.error(format!("unknown directive `{w}` in a kernel"));
                }
                Some(Kind::Word(w))
                    if self.tokens.get(self.at + 1).map(|t| t.kind) == Some(Kind::Punct(':')) =>
                {
                    self.at += 2;
                    items.push(Item::Label(w.into(), line));
                }
                Some(Kind::Punct(';')) => self.at += 1,
                _ => {
                    let statement = self.statement()?;
                    items.push(Item::Instruction(statement));
                }
            }
        }
    }

    /// `.shared .align 16 .b8 name[1024], other[4];`, several of them if separated by commas.
    fn variables(&mut self) -> Result<Vec<Variable>> {
        let line = self.line();
        let space = self.word("a state space")?[1..].to_string();
        let mut align = None;
        if self.eat_word(".align") {
            align = Some(self.integer()? as u64);
        }
        let class = self.word("a type")?;
        let Some(element) = size_of(class) else {
            return self.error(format!("unknown type `{class}`"));
        };
        let mut found = Vec::new();
        loop {
            let name = self.word("a variable's name")?.to_string();
            let mut count = Some(1u64);
            while self.eat('[') {
                count = match self.peek() {
                    Some(Kind::Punct(']')) => None,
                    _ => {
                        let n = self.integer()?;
                        match (count, u64::try_from(n)) {
                            (Some(c), Ok(n)) => c.checked_mul(n),
                            _ => return self.error(format!("a size of {n}")),
                        }
                    }
                };
                self.expect(']')?;
            }
            let mut values = Vec::new();
            if self.eat('=') {
                if self.eat('{') {
                    loop {
                        values.push(self.operand()?);
                        if !self.eat(',') {
                            break;
                        }
                    }
                    self.expect('}')?;
                } else {
                    values.push(self.operand()?);
                }
            }
            found.push(Variable {
                space: space.clone(),
                name,
                align: align.unwrap_or(element),
                element,
                count,
                values,
                line,
            });
            if !self.eat(',') {
                break;
            }
        }
        self.expect(';')?;
        Ok(found)
    }

    fn statement(&mut self) -> Result<Statement> {
        let first = self.at;
        let line = self.line();
        let mut guard = None;
        if self.eat('@') {
            let negated = self.eat('!');
            guard = Some((self.word("a predicate")?.to_string(), negated));
        }
        let opcode = self.word("an instruction")?;
        let mut operands = Vec::new();
        if !self.eat(';') {
            loop {
                operands.push(self.operand()?);
                if !self.eat(',') {
                    break;
                }
            }
            self.expect(';')?;
        }
        let source = &self.text[self.tokens[first].start..self.tokens[self.at - 1].start];
        let source: String = source
            .lines()
            .map(|line| line.split("//").next().unwrap_or_default())
            .collect::<Vec<_>>()
            .join(" ");
        Ok(Statement {
            guard,
            opcode: opcode.split('.').map(String::from).collect(),
            operands,
            line,
            text: source.split_whitespace().collect::<Vec<_>>().join(" "),
        })
    }

    fn operand(&mut self) -> Result<Operand> {
        let one = self.single()?;
        if self.eat('|') {
            let other = self.single()?;
            return Ok(Operand::Pair(one.into(), other.into()));
        }
        Ok(one)
    }

    fn single(&mut self) -> Result<Operand> {
        match self.peek() {
            Some(Kind::Punct('!')) => {
                self.at += 1;
                Ok(Operand::Not(self.word("a predicate")?.into()))
            }
            Some(Kind::Punct('{')) => {
                self.at += 1;
                let mut parts = Vec::new();
                loop {
                    parts.push(self.single()?);
                    if !self.eat(',') {
                        break;
                    }
                }
                self.expect('}')?;
                Ok(Operand::Vector(parts))
            }
            Some(Kind::Punct('[')) => {
                self.at += 1;
                let address = match self.peek() {
                    Some(Kind::Word(w)) if !w.starts_with(|c: char| c.is_ascii_digit()) => {
                        self.at += 1;
                        let mut offset = 0;
                        while let Some(Kind::Punct(sign @ ('+' | '-'))) = self.peek() {
                            self.at += 1;
                            let value = self.integer()?;
                            offset += if sign == '-' { -value } else { value };
                        }
                        Operand::Address(Some(w.into()), offset)
                    }
                    _ => Operand::Address(None, self.integer()?),
                };
                self.expect(']')?;
                Ok(address)
            }
            Some(Kind::Punct('-')) => {
                self.at += 1;
                let word = self.word("a number")?;
                match number(word) {
                    Some(Operand::Int(v)) => Ok(Operand::Int(v.wrapping_neg())),
                    Some(Operand::Float(v)) => Ok(Operand::Float(-v)),
                    _ => self.error(format!("`-{word}` is not a number")),
                }
            }
            Some(Kind::Word(w)) => {
                self.at += 1;
                if !w.starts_with(|c: char| c.is_ascii_digit()) {
                    return Ok(Operand::Name(w.into()));
                }
                match number(w) {
                    Some(v) => Ok(v),
                    None => self.error(format!("`{w}` is not a number")),
                }
            }
            _ => self.error(format!("expected an operand, found {}", self.found())),
        }
    }

    fn integer(&mut self) -> Result<i64> {
        let negative = self.eat('-');
        let word = self.word("an integer")?;
        match number(word) {
            Some(Operand::Int(v)) => Ok(if negative {
                (v as i64).wrapping_neg()
            } else {
                v as i64
            }),
            _ => self.error(format!("`{word}` is not an integer")),
        }
    }
}

fn number(word: &str) -> Option<Operand> {
    let lower = word.to_ascii_lowercase();
    if let Some(hex) = lower.strip_prefix("0f") {
        return (hex.len() == 8).then(|| u32::from_str_radix(hex, 16).ok().map(Operand::Bits32))?;
    }
    if let Some(hex) = lower.strip_prefix("0d") {
        return (hex.len() == 16)
            .then(|| u64::from_str_radix(hex, 16).ok().map(Operand::Bits64))?;
    }
    let plain = lower.strip_suffix('u').unwrap_or(&lower);
    let (digits, radix) = match plain.get(..2) {
        Some("0x") => (&plain[2..], 16),
        Some("0b") => (&plain[2..], 2),
        _ if plain.len() > 1 && plain.starts_with('0') && !plain.contains('.') => (&plain[1..], 8),
        _ => (plain, 10),
    };
    if let Ok(v) = u64::from_str_radix(digits, radix) {
        return Some(Operand::Int(v));
    }
    lower.parse().ok().map(Operand::Float)
}

/// Bytes of a fundamental type, written with its dot.
pub(crate) fn size_of(class: &str) -> Option<u64> {
    Some(match class {
        ".b8" | ".u8" | ".s8" => 1,
        ".b16" | ".u16" | ".s16" | ".f16" => 2,
        ".b32" | ".u32" | ".s32" | ".f32" | ".f16x2" => 4,
        ".b64" | ".u64" | ".s64" | ".f64" => 8,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_all_their_spellings() {
        assert_eq!(number("0f3F800000"), Some(Operand::Bits32(0x3f80_0000)));
        assert_eq!(
            number("0d3FF0000000000000"),
            Some(Operand::Bits64(0x3ff0_0000_0000_0000))
        );
        assert_eq!(number("0xFFu"), Some(Operand::Int(255)));
        assert_eq!(number("017"), Some(Operand::Int(15)));
        assert_eq!(number("0b101"), Some(Operand::Int(5)));
        assert_eq!(number("0"), Some(Operand::Int(0)));
        assert_eq!(number("1.5"), Some(Operand::Float(1.5)));
        assert_eq!(number("0f3F8"), None);
        assert_eq!(number("12abc"), None);
    }

    #[test]
    fn statements_keep_their_line_and_text() {
        let text = ".version 7.0\n.target sm_80\n.visible .entry k(.param .u64 p_a, .param .u32 p_n)\n.maxntid 64, 2, 1\n\
            {\n.reg .b32 %r<3>, %x;\nL:\n  @!%p  ld.global.v2.b32 {%r0,\n   %r1}, // two\n [%rd + -8];\n  bra L;\n}\n";
        let file = file(text).unwrap();
        let kernel = &file.kernels[0];
        assert_eq!(kernel.max_threads, Some(128));
        assert_eq!(kernel.parameters[1].1, "p_n");
        let Item::Registers { names, .. } = &kernel.body[0] else {
            panic!("registers first")
        };
        assert_eq!(names, &["%r0", "%r1", "%r2", "%x"]);
        let Item::Instruction(ld) = &kernel.body[2] else {
            panic!("an instruction third")
        };
        assert_eq!(ld.line, 8);
        assert_eq!(ld.text, "@!%p ld.global.v2.b32 {%r0, %r1}, [%rd + -8]");
        assert_eq!(ld.guard, Some(("%p".into(), true)));
        assert_eq!(ld.operands[1], Operand::Address(Some("%rd".into()), -8));
    }

    #[test]
    fn errors_name_the_line() {
        let line = |text: &str| file(text).unwrap_err().line;
        assert_eq!(
            line(".version 7.0\n.target sm_80\n.entry k() {\n mov.b32 %r 1;\n}"),
            4
        );
        assert_eq!(line(".version 7.0\n.target sm_80\n\n.func f();"), 4);
        assert_eq!(line(".version 7.0\n/* no end\n"), 2);
    }
}
