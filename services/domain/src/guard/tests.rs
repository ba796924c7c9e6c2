//! Goal: each thing that names a person is found where it stands, and nothing else is. Method: tables
//! of sentences with the part that must be found, sentences in which nothing may be found, and
//! planted numbers in random text.

use super::*;
use proptest::prelude::*;

fn check(text: &str, what: What, part: &str) {
    let at = text.find(part).expect("the part is in the text");
    assert_eq!(find(text), Some(Finding { what, at, len: part.len() }), "{text}");
}

#[test]
fn identity_numbers_are_found() {
    for (text, part) in [
        ("500114199001011231", "500114199001011231"),
        ("群众身份证500114199001011231已登记", "500114199001011231"),
        ("身份证号：11010519491231002X。", "11010519491231002X"),
        ("11010519491231002x", "11010519491231002x"),
        ("证件500114 19900101 1231", "500114 19900101 1231"),
        ("证件110105-19491231-002X", "110105-19491231-002X"),
        ("５００１１４１９９００１０１００１Ｘ", "５００１１４１９９００１０１００１Ｘ"),
        ("422826198506153025与433130200102290014", "422826198506153025"),
        ("旧证500114900101123,已换", "500114900101123"),
        ("旧证500114 900101 123", "500114 900101 123"),
        ("ID500114199001011231", "500114199001011231"),
    ] {
        check(text, What::IdentityNumber, part);
    }
}

#[test]
fn mobile_numbers_are_found() {
    for (text, part) in [
        ("13812345678", "13812345678"),
        ("联系电话13812345678,速回", "13812345678"),
        ("tel13812345678", "13812345678"),
        ("+8613812345678", "13812345678"),
        ("+86 138 1234 5678", "138 1234 5678"),
        ("008613812345678", "13812345678"),
        ("(+86)19912345678", "19912345678"),
        ("电话138-1234-5678转告", "138-1234-5678"),
        ("电话138—1234—5678转告", "138—1234—5678"),
        ("电话138 12345678", "138 12345678"),
        ("电话1381234 5678", "1381234 5678"),
        ("电话138 - 1234 - 5678", "138 - 1234 - 5678"),
        ("电话１３８１２３４５６７８", "１３８１２３４５６７８"),
        ("＋８６１３８１２３４５６７８", "１３８１２３４５６７８"),
        ("1.13812345678", "13812345678"),
        ("500114005002 13812345678", "13812345678"),
        ("14712345678、15012345678", "14712345678"),
    ] {
        check(text, What::MobileNumber, part);
    }
}

#[test]
fn vehicle_plates_are_found() {
    for (text, part) in [
        ("渝A12345", "渝A12345"),
        ("一辆渝HA1234停在河边", "渝HA1234"),
        ("鄂Q·8K123", "鄂Q·8K123"),
        ("湘U 12345", "湘U 12345"),
        ("新能源渝AD12345", "渝AD12345"),
        ("货车渝H12345D", "渝H12345D"),
        ("渝A1234挂", "渝A1234挂"),
        ("贵ｄ１２３４５", "贵ｄ１２３４５"),
        ("教练车渝H1234学号牌", "渝H1234学"),
        ("渝a12345", "渝a12345"),
    ] {
        check(text, What::VehiclePlate, part);
    }
}

#[test]
fn bank_cards_are_found() {
    for (text, part) in [
        ("卡号6222021234567894", "6222021234567894"),
        ("卡号6222 0212 3456 7894", "6222 0212 3456 7894"),
        ("622202123456789012", "622202123456789012"),
        ("6217000011112222337", "6217000011112222337"),
        ("6217-0000-1111-2222-337", "6217-0000-1111-2222-337"),
        ("４１１１１１１１１１１１１１１１", "４１１１１１１１１１１１１１１１"),
    ] {
        check(text, What::BankCard, part);
    }
}

#[test]
fn what_names_nobody_raises_no_alarm() {
    for text in [
        "",
        "黑溪镇后山滑坡,约300方,已转移23人",
        "坐标108.77187,29.53512",
        "坐标 108.7718713812 29.13812345678",
        "E108°46′18.7″ N29°32′6.4″",
        "108.13812345678",
        "2024-09-11 15:07:46",
        "2024-09-11T15:07:46+08:00",
        "20240911150746",
        "1998-07-01 120户搬迁",
        "8时30分至19时15分",
        "1760000000 1760000000000 1760000000000000",
        "国道G319线K12+300处塌方",
        "渝G319、新S304、云K12+300",
        "渝湘高速G65渝H段",
        "500114005002",
        "武陵山社区500114005002,小南海镇500114117",
        "017f22e2-79b0-7cc3-98c4-dc0c0c07398f",
        "12345678-1234-7123-8123-138123456781",
        "0190a1b2-1381-7345-8678-a13812345678",
        "017f22e279b07cc398c4dc0c0c07398f",
        "工单123456789",
        "工单2024091115074616",
        "工单5001142024091100012345",
        "12812345678",
        "1381234567",
        "138123456789",
        "99913812345678",
        "值班电话023-79222222",
        "电话12345、110、119",
        "500114199001011232",
        "500114199013011239",
        "990114199001011231",
        "100114199001011237",
        "100114900101123",
        "500114900431123",
        "138,1234,5678",
        "138、1234、5678",
        "138 A1234 5678",
        "138 1234 A5678",
        "138A 1234 5678",
        "138    1234    5678",
        "500114901301123",
        "500114900132123",
        "6222021234567895",
        "7222021234567893",
        "4111111111",
        "界桩 12 号至 13 号",
        "渝A区三组,渝东南",
        "渝A123456",
        "渝AABCDE",
        "渝AI2345",
        "A12345",
        "18-30 15-20 2024",
    ] {
        assert_eq!(find(text), None, "{text}");
    }
}

#[test]
fn the_first_of_several_is_named() {
    check("渝A12345车主13812345678", What::VehiclePlate, "渝A12345");
    check("13812345678驾驶渝A12345", What::MobileNumber, "13812345678");
}

proptest! {
    #[test]
    fn any_text_is_read_without_panic_and_found_parts_lie_in_it(text in "\\PC{0,60}") {
        if let Some(Finding { at, len, .. }) = find(&text) {
            prop_assert!(text.get(at..at + len).is_some_and(|part| !part.is_empty()));
        }
    }

    #[test]
    fn text_of_few_characters_is_read_without_panic(
        text in "[0168X渝AD+. -·－８１３a]{0,40}"
    ) {
        if let Some(Finding { at, len, .. }) = find(&text) {
            prop_assert!(text.get(at..at + len).is_some_and(|part| !part.is_empty()));
        }
    }

    #[test]
    fn a_planted_mobile_number_is_found(
        before in "[山河滑坡路村组,。]{0,20}",
        number in "1[3-9][0-9]{9}",
        after in "[山河滑坡路村组,。]{0,20}",
    ) {
        check(&format!("{before}{number}{after}"), What::MobileNumber, &number);
    }

    #[test]
    fn digits_within_a_longer_run_are_not_matched(
        number in "1[3-9][0-9]{9}",
        before in "[1-9]{1,2}",
        after in "[0-9]{1,1}",
    ) {
        // 12 to 14 digits: too long for a mobile number, too short for anything else.
        let run = format!("编号{before}{number}{after}");
        prop_assert_eq!(find(&run), None);
    }
}

#[test]
fn digits_are_counted_as_they_are_folded() {
    for c in '\0'..=char::MAX {
        let folded = usize::from(fold(c).is_ascii_digit());
        assert_eq!(digits(c.to_string().as_bytes()), folded, "{c:?}");
    }
}
