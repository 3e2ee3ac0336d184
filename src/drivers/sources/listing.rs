//! One page of a listing of object storage (ListObjectsV2 of the S3 API), read from XML. No entities but the five of XML,
//! no document type, bounded depth; every byte is looked at once. What a page says is believed of names alone.

use percent_encoding::percent_decode_str;

/// Elements within each other; a listing has four.
const DEPTH_MAX: usize = 16;
/// Longest text of an element that is kept, bytes before it is decoded.
const TEXT_BYTES_MAX: usize = 8 << 10;
/// Longest key of the S3 API, bytes.
const KEY_BYTES_MAX: usize = 1024;
/// Longest name of a reference such as `&#x10FFFF;`, bytes.
const REFERENCE_BYTES_MAX: usize = 10;

/// One object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its key, below the bucket: parts between `/` that are neither empty nor `.` or `..`, so that it is a URL's path.
    pub key: String,
    /// Changes when it does; as the server has it, quotes included.
    pub tag: String,
}

/// One page.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// In the server's order.
    pub objects: Vec<Object>,
    /// Objects whose key is none, or whose tag is missing.
    pub left_out: usize,
    /// By which the next page is asked for; `None`: this is the last.
    pub next: Option<String>,
}

/// Reads a page; `None` where it is none, or not whole.
pub fn read_page(bytes: &[u8]) -> Option<Page> {
    let mut tokens = Tokens { rest: std::str::from_utf8(bytes).ok()?.trim_start_matches('\u{feff}') };
    let mut open: Vec<&str> = Vec::new();
    let mut draft = Draft::default();
    let mut ended = false;
    while let Some(token) = tokens.next()? {
        match token {
            Token::Open(name) => {
                if ended || open.len() >= DEPTH_MAX || (open.is_empty() && name != "ListBucketResult") {
                    return None;
                }
                open.push(name);
                draft.begins(&open);
            }
            Token::Close(name) => {
                draft.ends(&open);
                if open.pop()? != name {
                    return None;
                }
                ended = open.is_empty();
            }
            // Outside of the one element there is white space alone.
            Token::Text(text) | Token::Literal(text) if open.is_empty() => {
                text.trim().is_empty().then_some(())?;
            }
            Token::Text(text) => draft.says(&plain(text)?),
            Token::Literal(text) => draft.says(text),
        }
    }
    ended.then(|| draft.page())
}

/// What has been read of a page so far.
#[derive(Default)]
struct Draft {
    /// Key and tag as they stand there.
    objects: Vec<(Option<String>, Option<String>)>,
    /// Text of the element that is open; `None`: it is too long.
    text: Option<String>,
    encoded: bool,
    truncated: bool,
    next: Option<String>,
}

impl Draft {
    fn begins(&mut self, open: &[&str]) {
        self.text = Some(String::new());
        if let [_, "Contents"] = open {
            self.objects.push((None, None));
        }
    }

    fn says(&mut self, text: &str) {
        self.text = self.text.take().filter(|held| held.len().saturating_add(text.len()) <= TEXT_BYTES_MAX);
        if let Some(held) = &mut self.text {
            held.push_str(text);
        }
    }

    fn ends(&mut self, open: &[&str]) {
        let text = self.text.take();
        match (open, self.objects.last_mut()) {
            ([_, "Contents", "Key"], Some((key, _))) => *key = text,
            ([_, "Contents", "ETag"], Some((_, tag))) => *tag = text,
            ([_, "EncodingType"], _) => self.encoded = text.is_some_and(|text| text == "url"),
            ([_, "IsTruncated"], _) => self.truncated = text.is_some_and(|text| text == "true"),
            ([_, "NextContinuationToken"], _) => self.next = text.filter(|text| !text.is_empty()),
            _ => {}
        }
    }

    fn page(self) -> Page {
        let mut page = Page { next: self.next.filter(|_| self.truncated), ..Page::default() };
        for (key, tag) in self.objects {
            let object = key.and_then(|key| key_of(&key, self.encoded)).zip(tag.filter(|tag| !tag.is_empty()));
            match object {
                Some((key, tag)) => page.objects.push(Object { key, tag }),
                None => page.left_out = page.left_out.saturating_add(1),
            }
        }
        page
    }
}

/// A key without its encoding, where it can be the path of a URL.
fn key_of(text: &str, encoded: bool) -> Option<String> {
    let key = match encoded {
        // Some servers write a space as `+`, and all of them a plus as `%2B`.
        true => percent_decode_str(&text.replace('+', "%20")).decode_utf8().ok()?.into_owned(),
        false => text.to_owned(),
    };
    let right = (1..=KEY_BYTES_MAX).contains(&key.len())
        && !key.chars().any(char::is_control)
        && !key.split('/').any(|part| matches!(part, "" | "." | ".."));
    right.then_some(key)
}

/// Text without references; `None` where one is none of XML's own.
fn plain(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        out.push_str(before);
        let end = after.bytes().take(REFERENCE_BYTES_MAX).position(|byte| byte == b';')?;
        let (name, after) = (after.get(..end)?, after.get(end.checked_add(1)?..)?);
        out.push(match name {
            "lt" => '<',
            "gt" => '>',
            "amp" => '&',
            "quot" => '"',
            "apos" => '\'',
            _ => {
                let number = name.strip_prefix('#')?;
                let code = match number.strip_prefix('x') {
                    Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                    None => number.parse().ok()?,
                };
                char::from_u32(code)?
            }
        });
        rest = after;
    }
    out.push_str(rest);
    Some(out)
}

enum Token<'a> {
    Open(&'a str),
    Close(&'a str),
    /// With references still.
    Text(&'a str),
    /// As it stands there.
    Literal(&'a str),
}

struct Tokens<'a> {
    rest: &'a str,
}

impl<'a> Tokens<'a> {
    /// The next one; the inner `None` is the end, the outer one a fault. An element that ends where it begins is left out:
    /// it has nothing to say.
    fn next(&mut self) -> Option<Option<Token<'a>>> {
        loop {
            if self.rest.is_empty() {
                return Some(None);
            }
            if let Some(after) = self.rest.strip_prefix("<!--") {
                self.rest = after.split_once("-->")?.1;
            } else if let Some(after) = self.rest.strip_prefix("<?") {
                self.rest = after.split_once("?>")?.1;
            } else if let Some(after) = self.rest.strip_prefix("<![CDATA[") {
                let (text, after) = after.split_once("]]>")?;
                self.rest = after;
                return Some(Some(Token::Literal(text)));
            } else if let Some(after) = self.rest.strip_prefix("</") {
                let (name, after) = after.split_once('>')?;
                self.rest = after;
                return Some(Some(Token::Close(local(name)?)));
            } else if let Some(after) = self.rest.strip_prefix('<') {
                let end = tag_end(after)?;
                let tag = after.get(..end)?;
                self.rest = after.get(end.checked_add(1)?..)?;
                let name = tag.split([' ', '\t', '\r', '\n', '/']).next()?;
                let name = local(name)?;
                if !tag.ends_with('/') {
                    return Some(Some(Token::Open(name)));
                }
            } else {
                let end = self.rest.find('<').unwrap_or(self.rest.len());
                let (text, after) = self.rest.split_at_checked(end)?;
                self.rest = after;
                return Some(Some(Token::Text(text)));
            }
        }
    }
}

/// Where a tag ends: at the first `>` that is in no attribute's quotes.
fn tag_end(text: &str) -> Option<usize> {
    let mut quote = None;
    text.bytes().position(|byte| match (quote, byte) {
        (None, b'>') => true,
        (None, b'"' | b'\'') => {
            quote = Some(byte);
            false
        }
        (Some(open), _) if open == byte => {
            quote = None;
            false
        }
        _ => false,
    })
}

/// A name without the prefix of its namespace; `None` for what is no name, as in `<!DOCTYPE`.
fn local(name: &str) -> Option<&str> {
    let name = name.trim_end();
    let local = name.rsplit_once(':').map_or(name, |(_, local)| local);
    let right = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (!local.is_empty() && name.bytes().all(|byte| right(byte) || byte == b':')).then_some(local)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn listing(inner: &str) -> Option<Page> {
        read_page(
            format!("<?xml version=\"1.0\"?>\n<ListBucketResult xmlns=\"x>y\">{inner}</ListBucketResult>\n").as_bytes(),
        )
    }

    fn object(key: &str, tag: &str) -> Object {
        Object { key: key.to_owned(), tag: tag.to_owned() }
    }

    #[test]
    fn a_page_is_read_as_several_servers_write_it() {
        let page = listing(
            "<EncodingType>url</EncodingType><Contents><Key>a%20b/c+d%2B.piecework</Key><ETag>&#34;1&quot;</ETag>\
             <Owner><ID>x</ID></Owner></Contents><IsTruncated>true</IsTruncated>\
             <NextContinuationToken>a&amp;lt;</NextContinuationToken>",
        );
        let page = page.expect("a page");
        assert_eq!(page.objects, [object("a b/c d+.piecework", "\"1\"")]);
        assert_eq!((page.next.as_deref(), page.left_out), (Some("a&lt;"), 0));
        let page = listing("<a:Contents><a:ETag>t</a:ETag><a:Key><![CDATA[50%+1]]></a:Key><a:X/></a:Contents>");
        assert_eq!(page.expect("a page").objects, [object("50%+1", "t")], "not encoded where it does not say so");
        assert_eq!(listing("<!-- <Contents> -->").expect("a page"), Page::default());
        let last = listing("<IsTruncated>false</IsTruncated><NextContinuationToken>x</NextContinuationToken>");
        assert_eq!(last.expect("a page").next, None);
    }

    #[test]
    fn what_is_no_listing_is_refused() {
        for text in [
            "",
            "<Error/>",
            "<html></html>",
            "<ListBucketResult>",
            "<ListBucketResult/>",
            "x<ListBucketResult></ListBucketResult>",
        ] {
            assert_eq!(read_page(text.as_bytes()), None, "{text}");
        }
        for inner in [
            "<A>",
            "</A>",
            "<A></B>",
            "&boom;",
            "&#xd800;",
            "&#0000000000000065;",
            "<!DOCTYPE a>",
            "<!--",
            "<![CDATA[",
            "<A b=\">",
            "< A></A>",
        ] {
            assert_eq!(listing(inner), None, "{inner}");
        }
        let entities =
            "<!DOCTYPE a [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;&a;\">]><ListBucketResult>&b;</ListBucketResult>";
        assert_eq!(read_page(entities.as_bytes()), None);
        let deep = |depth: usize| "<A>".repeat(depth) + &"</A>".repeat(depth);
        assert!(listing(&deep(DEPTH_MAX - 1)).is_some() && listing(&deep(DEPTH_MAX)).is_none());
        assert_eq!(read_page(b"<ListBucketResult>\xff</ListBucketResult>"), None);
    }

    #[test]
    fn keys_that_are_no_path_are_left_out_and_counted() {
        let entry = |key: &str| format!("<Contents><Key>{key}</Key><ETag>x</ETag></Contents>");
        for key in ["", ".", "..", "a/../b", "%2e%2e/b", "/a", "a//b", "a/", "a%00", "%ff", "a%0Ab", &"k".repeat(1025)]
        {
            let page = listing(&format!("<EncodingType>url</EncodingType>{}", entry(key))).expect("a page");
            assert_eq!((page.objects.len(), page.left_out), (0, 1), "{key}");
        }
        let page =
            listing(&format!("{}{}<Contents><Key>a</Key></Contents>", entry(&"k".repeat(1024)), entry("a&#10;b")));
        let page = page.expect("a page");
        assert_eq!((page.objects.len(), page.left_out), (1, 2));
        let many = entry("k").repeat(10_000);
        assert_eq!(listing(&many).expect("a page").objects.len(), 10_000);
    }

    proptest! {
        #[test]
        fn keys_and_tags_come_back_as_they_were_whoever_wrote_them(
            keys in proptest::collection::vec("[^\\x00-\\x1f\\x7f-\\x9f/]{1,20}(/[^\\x00-\\x1f\\x7f-\\x9f/]{1,20}){0,2}", 0..8),
            encoded in any::<bool>(),
        ) {
            let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&#x3e;");
            let mut inner = if encoded { "<EncodingType>url</EncodingType>".to_owned() } else { String::new() };
            for key in &keys {
                let key = match encoded {
                    true => percent_encoding::utf8_percent_encode(key, percent_encoding::NON_ALPHANUMERIC).to_string(),
                    false => escape(key),
                };
                inner += &format!("<Contents><Key>{key}</Key><ETag>{}</ETag></Contents>", escape("\"<&>\""));
            }
            let page = listing(&inner).expect("a page");
            let path = |key: &&String| !key.split('/').any(|part| matches!(part, "." | ".."));
            let expected: Vec<_> = keys.iter().filter(path).map(|key| object(key, "\"<&>\"")).collect();
            prop_assert_eq!(page.left_out, keys.len() - expected.len());
            prop_assert_eq!(page.objects, expected);
        }

        #[test]
        fn nothing_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), inner in "[<>/&;#x!\\[\\]a-z\"= -]{0,80}") {
            let _ = read_page(&bytes);
            let _ = listing(&inner);
        }
    }
}
