//! Finds in free text what names a person: identity numbers, mobile numbers, vehicle plates, bank
//! cards. Chosen for few false alarms, because whoever is refused must write the report again: a
//! number counts only as a whole run of digits or in the groups in which people write it.

/// What was found. It says where, never what stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it reads as.
    pub what: What,
    /// Its first byte in the text.
    pub at: usize,
    /// Its length in bytes.
    pub len: usize,
}

/// What a text may not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum What {
    /// 身份证号, of 18 or 15 digits.
    IdentityNumber,
    /// 手机号.
    MobileNumber,
    /// 车牌.
    VehiclePlate,
    /// 银行卡号.
    BankCard,
}

impl What {
    /// Its name in a message.
    pub const fn name(self) -> &'static str {
        match self {
            Self::IdentityNumber => "identity number",
            Self::MobileNumber => "mobile number",
            Self::VehiclePlate => "vehicle plate",
            Self::BankCard => "bank card number",
        }
    }
}

/// Digits that a plate holds at least, and those of the shortest number.
const PLATE_DIGITS_MIN: usize = 3;
const NUMBER_DIGITS_MIN: usize = 11;

/// The first thing in the text that names a person.
pub fn find(text: &str) -> Option<Finding> {
    // Most texts hold few digits, or none.
    let digits = digits(text.as_bytes());
    let may_be_plate = || text.contains(|c| PROVINCES.contains(c));
    if digits < PLATE_DIGITS_MIN || digits < NUMBER_DIGITS_MIN && !may_be_plate() {
        return None;
    }
    let words = words(text);
    let number = find_number(&numbers(&words));
    let plate = find_plate(&words);
    [number, plate].into_iter().flatten().min_by_key(|finding| finding.at)
}

/// How many digits a text holds, the full-width ones (three bytes each) included.
fn digits(text: &[u8]) -> usize {
    let plain = text.iter().filter(|byte| byte.is_ascii_digit()).count();
    let wide = text.windows(3).filter(|bytes| matches!(bytes, [0xEF, 0xBC, 0x90..=0x99]));
    plain + wide.count()
}

/// The groups in which people write the numbers that matter.
const GROUPS: &[&[usize]] = &[
    &[11],
    &[3, 4, 4],
    &[3, 8],
    &[7, 4],
    &[3, 3, 5],
    &[15],
    &[6, 6, 3],
    &[18],
    &[6, 8, 4],
    &[16],
    &[17],
    &[6, 8, 3],
    &[19],
    &[4, 4, 4, 4],
    &[4, 4, 4, 4, 1],
    &[4, 4, 4, 4, 2],
    &[4, 4, 4, 4, 3],
];
/// First two digits of identity numbers.
const PROVINCE_CODES: &[&str] = &[
    "11", "12", "13", "14", "15", "21", "22", "23", "31", "32", "33", "34", "35", "36", "37", "41",
    "42", "43", "44", "45", "46", "50", "51", "52", "53", "54", "61", "62", "63", "64", "65", "71",
    "81", "82", "83", "91",
];
/// First characters of plates.
const PROVINCES: &str = "京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼";
/// Last characters of plates that end in one.
const PLATE_ENDS: &str = "挂学警港澳";

/// Letters and digits without anything between them, and what stands before.
struct Word {
    /// Folded to ASCII upper case.
    text: String,
    /// Where each character begins.
    starts: Vec<usize>,
    /// Where the word ends.
    end: usize,
    /// What stands between the word before and this one, folded.
    gap: String,
}

impl Word {
    fn byte(&self, index: usize) -> usize {
        self.starts.get(index).copied().unwrap_or(self.end)
    }
}

/// The words of a text; the last is empty and carries what stands after all others.
fn words(text: &str) -> Vec<Word> {
    let mut words: Vec<Word> = Vec::new();
    let mut gap = String::new();
    for (at, raw) in text.char_indices() {
        let (c, end) = (fold(raw), at.saturating_add(raw.len_utf8()));
        if !c.is_ascii_alphanumeric() {
            gap.push(c);
            continue;
        }
        match words.last_mut() {
            Some(word) if gap.is_empty() => {
                word.text.push(c);
                word.starts.push(at);
                word.end = end;
            }
            _ => {
                let gap = std::mem::take(&mut gap);
                words.push(Word { text: c.to_string(), starts: vec![at], end, gap });
            }
        }
    }
    words.push(Word { text: String::new(), starts: Vec::new(), end: text.len(), gap });
    words
}

/// Full-width forms, dashes, spaces and dots as the plain ones, letters as capitals.
fn fold(c: char) -> char {
    let plain = match c {
        '\u{FF01}'..='\u{FF5E}' => {
            u32::from(c).checked_sub(0xFEE0).and_then(char::from_u32).unwrap_or(c)
        }
        '\u{3000}' | '\u{00A0}' | '\u{2002}'..='\u{200A}' => ' ',
        '‐'..='―' | '−' => '-',
        '•' | '・' | '‧' => '·',
        _ => c,
    };
    plain.to_ascii_uppercase()
}

/// A run of digits that may be a number or a group of one.
struct Number {
    digits: String,
    at: usize,
    end: usize,
    /// Where an X ends that stands right behind the digits.
    x_end: Option<usize>,
    /// Only spaces or dashes lie between the run before and this one.
    joined: bool,
}

/// The numbers among the words; `None` where a word is none.
fn numbers(words: &[Word]) -> Vec<Option<Number>> {
    let mut numbers = Vec::with_capacity(words.len());
    let mut before: Option<&Word> = None;
    for word in words {
        numbers.push(number(word, before));
        before = Some(word);
    }
    for (index, window) in words.windows(5).enumerate() {
        if is_uuid(window) {
            numbers.iter_mut().skip(index).take(5).for_each(|number| *number = None);
        }
    }
    numbers
}

fn number(word: &Word, before: Option<&Word>) -> Option<Number> {
    let digits_at = word.text.find(|c: char| c.is_ascii_digit())?;
    let (lead, rest) = word.text.split_at(digits_at);
    let digits = rest.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let fraction = word.gap == "." && before.is_some_and(|before| is_whole_part(&before.text));
    // Digits with letters among them are a code, and the digits of a fraction are no number.
    if fraction || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits_end = digits_at.saturating_add(digits.len());
    let prefix = country_prefix(digits, lead.is_empty() && word.gap.ends_with('+'));
    let x_end = word.text.ends_with('X') && digits_end.saturating_add(1) == word.text.len();
    let between = !word.gap.is_empty() && word.gap.chars().all(|c| c == ' ' || c == '-');
    let follows = before.is_some_and(|before| before.text.bytes().all(|b| b.is_ascii_digit()));
    Some(Number {
        digits: digits.chars().skip(prefix).collect(),
        at: word.byte(digits_at.saturating_add(prefix)),
        end: word.byte(digits_end),
        x_end: x_end.then_some(word.end),
        joined: lead.is_empty() && between && word.gap.len() <= 3 && follows,
    })
}

/// Whether a point behind this word makes what follows a fraction. A single digit is rather the
/// number of a line in a list.
fn is_whole_part(word: &str) -> bool {
    let digits = word.bytes().rev().take_while(u8::is_ascii_digit).count();
    digits >= 2 || word == "0"
}

/// Digits of the country code at the beginning of a number: of +86 or 0086.
fn country_prefix(digits: &str, after_plus: bool) -> usize {
    if after_plus && digits.starts_with("86") && digits.len() > 2 {
        2
    } else if digits.starts_with("0086") && digits.len() > 4 {
        4
    } else {
        0
    }
}

fn is_uuid(words: &[Word]) -> bool {
    let hex = words.iter().all(|word| word.text.bytes().all(|b| b.is_ascii_hexdigit()));
    let dashed = words.iter().skip(1).all(|word| word.gap == "-");
    hex && dashed && words.iter().map(|word| word.text.len()).eq([8, 4, 4, 4, 12])
}

fn find_number(numbers: &[Option<Number>]) -> Option<Finding> {
    (0..numbers.len()).find_map(|first| {
        let rest = numbers.get(first..)?;
        GROUPS.iter().find_map(|groups| {
            let runs: Vec<&Number> = rest.iter().take(groups.len()).flatten().collect();
            let shaped = runs.iter().map(|run| run.digits.len()).eq(groups.iter().copied())
                && runs.iter().skip(1).all(|run| run.joined);
            if !shaped {
                return None;
            }
            let (head, tail) = (runs.first()?, runs.last()?);
            let digits: String = runs.iter().map(|run| run.digits.as_str()).collect();
            let (what, end) = match tail.x_end {
                Some(end) if is_identity(&digits, 'X') => (What::IdentityNumber, end),
                _ => (read(&digits)?, tail.end),
            };
            Some(Finding { what, at: head.at, len: end.saturating_sub(head.at) })
        })
    })
}

/// What so many digits are, if anything.
fn read(digits: &str) -> Option<What> {
    match digits.len() {
        11 if is_mobile(digits) => Some(What::MobileNumber),
        15 if is_old_identity(digits) => Some(What::IdentityNumber),
        18 if is_full_identity(digits) => Some(What::IdentityNumber),
        16..=19 if is_bank_card(digits) => Some(What::BankCard),
        _ => None,
    }
}

fn is_mobile(digits: &str) -> bool {
    matches!(digits.as_bytes(), [b'1', b'3'..=b'9', ..])
}

fn is_full_identity(digits: &str) -> bool {
    let (body, check) = digits.split_at(digits.len().saturating_sub(1));
    check.chars().next().is_some_and(|check| is_identity(body, check))
}

/// GB 11643: six digits of a division, eight of a date, three of an order, a check digit of
/// ISO 7064 MOD 11-2.
fn is_identity(body: &str, check: char) -> bool {
    const WEIGHTS: [u32; 17] = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2];
    const CHECKS: &str = "10X98765432";
    let products =
        body.chars().zip(WEIGHTS).map(|(c, weight)| c.to_digit(10).unwrap_or(0) * weight);
    let remainder = usize::try_from(products.sum::<u32>() % 11).unwrap_or(0);
    body.len() == WEIGHTS.len()
        && CHECKS.chars().nth(remainder) == Some(check)
        && has_province(body)
        && body.get(6..14).is_some_and(is_date)
}

/// The form before 1999: the year in two digits, no check digit.
fn is_old_identity(digits: &str) -> bool {
    has_province(digits) && digits.get(6..12).is_some_and(|date| is_date(&format!("19{date}")))
}

fn has_province(digits: &str) -> bool {
    digits.get(..2).is_some_and(|province| PROVINCE_CODES.contains(&province))
}

/// A day of 1900 to 2099, as YYYYMMDD.
fn is_date(digits: &str) -> bool {
    let Ok(number) = digits.parse::<u32>() else { return false };
    let (year, month, day) = (number / 10_000, number / 100 % 100, number % 100);
    let days = match month {
        2 => 29,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    (1900..=2099).contains(&year) && (1..=12).contains(&month) && (1..=days).contains(&day)
}

/// Luhn. Numbers that begin with 0, 1, 2 or 7 are dates, times and tickets rather than cards.
fn is_bank_card(digits: &str) -> bool {
    let sum: u32 = digits
        .chars()
        .rev()
        .filter_map(|c| c.to_digit(10))
        .enumerate()
        .map(|(index, digit)| match (index % 2 == 1, digit * 2) {
            (false, _) => digit,
            (true, twice) if twice > 9 => twice - 9,
            (true, twice) => twice,
        })
        .sum();
    digits.starts_with(['3', '4', '5', '6', '8', '9']) && sum.is_multiple_of(10)
}

/// A province, a letter and a serial of five, or of six for new-energy vehicles.
fn find_plate(words: &[Word]) -> Option<Finding> {
    words.iter().enumerate().find_map(|(index, word)| {
        let province = word.gap.chars().last().filter(|c| PROVINCES.contains(*c))?;
        let next = index.checked_add(1).and_then(|next| words.get(next));
        let at = word.byte(0).saturating_sub(province.len_utf8());
        let end = plate_end(word, next)?;
        Some(Finding { what: What::VehiclePlate, at, len: end.saturating_sub(at) })
    })
}

fn plate_end(word: &Word, next: Option<&Word>) -> Option<usize> {
    let mut chars = word.text.chars();
    let letter = chars.next().filter(char::is_ascii_alphabetic)?;
    let rest = word.text.strip_prefix(letter)?;
    if is_serial(rest, 5, 3) || is_serial(rest, 6, 4) {
        return Some(word.end);
    }
    let next = next?;
    let ending = next.gap.chars().next().filter(|c| PLATE_ENDS.contains(*c));
    if is_serial(rest, 4, 3) {
        return ending.map(|c| word.end.saturating_add(c.len_utf8()));
    }
    let apart = ["·", ".", " ", "-"].contains(&next.gap.as_str());
    let serial = is_serial(&next.text, 5, 3) || is_serial(&next.text, 6, 4);
    (rest.is_empty() && apart && serial).then_some(next.end)
}

/// Letters without I and O, and so many digits at least; six digits and no letter are no plate.
fn is_serial(text: &str, len: usize, digits_min: usize) -> bool {
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    text.len() == len && digits >= digits_min && digits < 6 && !text.contains(['I', 'O'])
}

#[cfg(test)]
mod tests;
