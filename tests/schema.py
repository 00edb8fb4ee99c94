"""What a public TOML checker says of our configuration files by `config/schema.json`, and that it agrees with holdoff.

The checker is taplo, which editors use, too. `tests/run` runs this; by hand: `cargo build && .venv/bin/python3 tests/schema.py`.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import unittest

import jsonschema

ROOT = pathlib.Path(__file__).resolve().parent.parent
BINARY = os.environ.get("HOLDOFF_BIN", str(ROOT / "target/debug/holdoff"))
TAPLO = shutil.which("taplo") or str(pathlib.Path(sys.executable).parent / "taplo")
SCHEMA_FILE = ROOT / "config/schema.json"
SCHEMA = json.loads(SCHEMA_FILE.read_text())
DEFAULT = (ROOT / "config/default.toml").read_text()

# No setting of the machine the tests run on, and no schema from anywhere else.
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("HOLDOFF_", "TAPLO_"))}


def run(command, text):
    """What `command` says of a file with this text, named last: whether it is good, and the messages."""
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(text)
        file.flush()
        done = subprocess.run([*command, file.name], env=CLEAN, capture_output=True, text=True, timeout=20)
    return done.returncode == 0, done.stdout + done.stderr


def taplo(text):
    return run([TAPLO, "check", "--no-auto-config", "--schema", SCHEMA_FILE.as_uri()], text)


def refused(texts):
    """The indexes of the texts that the checker refuses, found in one run: it reads the schema anew each time."""
    with tempfile.TemporaryDirectory() as folder:
        # One more that is refused whatever happens: the checker may end before it has said all about the last file.
        paths = [pathlib.Path(folder) / f"{index}.toml" for index in range(len(texts) + 1)]
        for path, text in zip(paths, [*texts, "no_such_key = 1\n"]):
            path.write_text(text)
        command = [TAPLO, "check", "--no-auto-config", "--colors", "never", "--schema", SCHEMA_FILE.as_uri()]
        done = subprocess.run([*command, *paths], env=CLEAN, capture_output=True, text=True, timeout=60)
        said = done.stdout + done.stderr
    if done.returncode != 1:
        raise AssertionError(f"expected exit code 1, found {done.returncode}:\n{said}")
    return {index for index, path in enumerate(paths[:-1]) if f"┌─ {path}:" in said}


def holdoff(text):
    return run([BINARY, "check", "--config"], text)


def uncommented():
    """The default file with every key that is only shown: `# key = …`, `# [[table]]`, `# [table]`."""
    shown = re.compile(r"^# (?=[a-z0-9_]+ = |\[{1,2}[A-Za-z0-9_.-]+\]{1,2}$)", re.MULTILINE)
    return shown.sub("", DEFAULT)


def leaves(node, path=()):
    """Every key of the schema of one type that is no table: its path, `*` for an entry of a list or a name, and its node."""
    for name, child in node.get("properties", {}).items():
        yield from leaves(child, (*path, name))
    entry = node.get("items", node.get("additionalProperties"))
    if isinstance(entry, dict) and "properties" in entry:
        yield from leaves(entry, (*path, "*"))
    # A key that takes values of several types has no type of its own.
    elif "type" in node and (node["type"] != "object" or isinstance(entry, dict)):
        yield path, node


def tables(node, path=()):
    """Every table of the schema with named keys."""
    if "properties" in node:
        yield path, node
    for name, child in node.get("properties", {}).items():
        yield from tables(child, (*path, name))
    for entry in (node.get("items"), node.get("additionalProperties")):
        if isinstance(entry, dict):
            yield from tables(entry, (*path, "*"))


def document(path, value):
    """A document with `value`, which is TOML, at a path of the schema, and with all that the tables on the way must have."""

    def inside(node, path):
        if not path:
            return value
        name, rest = path[0], path[1:]
        if name == "*":
            return f"[{inside(node['items'], rest)}]" if "items" in node else f"{{ any = {inside(node['additionalProperties'], rest)} }}"
        more = [f"{each} = {example(node['properties'][each])}" for each in node.get("required", []) if each != name]
        found = inside(node["properties"].get(name, {}), rest)
        return "{ " + ", ".join([f"{name} = {found}", *more]) + " }"

    name, rest = path[0], path[1:]
    return f"{name} = {inside(SCHEMA['properties'].get(name, {}), rest)}\n"


def example(node):
    """A value of TOML that a node of the schema takes."""
    if "default" in node:
        return json.dumps(node["default"])
    pattern = node.get("pattern", "")
    samples = ["text", "/a", "1s", "1B", "127.0.0.1:1", "https://a.example", "10.0.0.0/8", "443", "DNS:a.example"]
    match node["type"]:
        case "array":
            return f"[{example(node['items'])}]"
        case "string":
            return json.dumps(node["enum"][0] if "enum" in node else next(s for s in samples if re.search(pattern, s)))
        case "integer":
            return str(node["minimum"])
        case "number":
            return "1.5"
        case "boolean":
            return "true"
        case "object":
            return "{}"


class Files(unittest.TestCase):
    def accept(self, name, text):
        good, said = taplo(text)
        self.assertTrue(good, f"{name}:\n{said}")

    def test_the_schema_is_one_of_its_dialect(self):
        self.assertEqual(SCHEMA["$schema"], jsonschema.Draft7Validator.META_SCHEMA["$schema"])
        jsonschema.Draft7Validator.check_schema(SCHEMA)

    def test_the_checked_in_schema_is_the_one_that_is_printed(self):
        printed = subprocess.run([BINARY, "config", "schema"], env=CLEAN, capture_output=True, text=True, check=True)
        self.assertEqual(printed.stdout, SCHEMA_FILE.read_text(), "run `holdoff config schema > config/schema.json`")

    def test_the_default_file_is_accepted_as_it_is_and_with_every_key_that_is_only_shown(self):
        self.accept("config/default.toml", DEFAULT)
        every = uncommented()
        self.accept("config/default.toml, uncommented", every)
        self.assertLess({"listen", "reverse", "host"}, set(tomllib.loads(every)))
        self.assertIn("auth_file", tomllib.loads(every)["listen"])

    def test_every_example_is_accepted(self):
        examples = sorted((ROOT / "config/examples").glob("*.toml"))
        self.assertGreaterEqual(len(examples), 6)
        for path in examples:
            with self.subTest(path.name):
                self.accept(path.name, path.read_text())

    def test_every_toml_block_of_the_readme_is_accepted(self):
        readme = (ROOT / "README.md").read_text()
        blocks = re.findall(r"^```toml\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
        self.assertGreaterEqual(len(blocks), 6)
        for block in blocks:
            # A `#:schema` in it names a file beside the reader's.
            self.accept("README.md", re.sub(r"^#:schema .*$", "", block, flags=re.MULTILINE))

    def test_a_file_can_name_the_schema_in_its_first_line(self):
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(SCHEMA_FILE, pathlib.Path(folder) / "holdoff.schema.json")
            for text, wanted in (("[log]\naccess = true\n", 0), ("[log]\nacess = true\n", 1)):
                path = pathlib.Path(folder) / "holdoff.toml"
                path.write_text(f"#:schema ./holdoff.schema.json\n{text}")
                command = [TAPLO, "check", "--no-auto-config", path]
                done = subprocess.run(command, env=CLEAN, capture_output=True, text=True, timeout=20)
                self.assertEqual(done.returncode, wanted, done.stdout + done.stderr)

    def test_what_is_printed_as_the_configuration_in_effect_is_accepted(self):
        shown = subprocess.run([BINARY, "config", "show"], env=CLEAN, capture_output=True, text=True, check=True)
        self.accept("config show", shown.stdout)


class Mistakes(unittest.TestCase):
    """The checker fails, as it must: it would pass everything if it did not find the schema."""

    def test_a_mistake_in_any_example_is_refused(self):
        for path in sorted((ROOT / "config/examples").glob("*.toml")):
            for mistake in ("\nno_such_key = 1\n", "\n[limits]\nmax_keys = \"many\"\n"):
                with self.subTest(path.name):
                    self.assertFalse(taplo(path.read_text() + mistake)[0])

    def test_every_key_takes_a_value_of_its_type_and_refuses_one_of_another(self):
        found = list(leaves(SCHEMA))
        self.assertGreater(len(found), 120)
        good = [document(path, example(node)) for path, node in found]
        self.assertEqual([good[index] for index in sorted(refused(good))], [])
        wrong = [document(path, "1" if node["type"] == "string" else '"x"') for path, node in found]
        taken = set(range(len(wrong))) - refused(wrong)
        self.assertEqual([wrong[index] for index in sorted(taken)], [])
        for text in wrong:
            with self.subTest(text):
                self.assertFalse(holdoff(text)[0], "the program takes what the schema refuses")

    def test_every_table_refuses_a_key_it_does_not_know(self):
        texts = [document((*path, "no_such_key"), "1") for path, _ in tables(SCHEMA)]
        self.assertGreater(len(texts), 20)
        taken = set(range(len(texts))) - refused(texts)
        self.assertEqual([texts[index] for index in sorted(taken)], [])

    def test_a_key_that_must_be_there_is_missed(self):
        for text in ("[[host]]\nmode = \"off\"\n", "[[reverse]]\naddress = [\"127.0.0.1:1\"]\n"):
            self.assertFalse(taplo(text)[0], text)


class Agreement(unittest.TestCase):
    """The checker refuses nothing that holdoff takes, and of what a pattern can know, takes nothing that holdoff refuses."""

    def agree(self, key, good, bad):
        table, name = key.rsplit(".", 1)
        texts = [f"[{table}]\n{name} = {value}\n" for value in [*good, *bad]]
        not_taken = refused(texts)
        for index, text in enumerate(texts):
            with self.subTest(text):
                ours, said = holdoff(text)
                wanted = index < len(good)
                self.assertEqual((ours, index not in not_taken), (wanted, wanted), f"holdoff, taplo; {said}")

    def test_durations(self):
        units = "ns nsec nanos us usec µs ms msec millis s sec secs second seconds m min mins minute minutes"
        units += " h hr hrs hour hours d day days w wk wks week weeks M month months y yr yrs year years"
        good = [f'"1{unit}"' for unit in units.split()] + ['"1h 30m"', '"1h30m"', '" 2 h  5 min "', '"1.5s"', '"0s"']
        bad = ['"60"', "60", '"s"', '""', '"-1s"', '"1 fortnight"', '"1,5s"', '"1h x"', '"1hm"', '"1S"', "1.5", "[]"]
        self.agree("upstream.max_lifetime", good, bad)

    def test_sizes(self):
        good = ['"0B"', '"64KiB"', '"64 KiB"', '"1MiB"']
        self.agree("defaults.timeouts.max_request_body", good, ['"64KB"', '"64"', "64", '"KiB"', '"-1B"', '"1.5MiB"', '""'])

    def test_addresses_networks_and_ports(self):
        good = ['["127.0.0.1:4290"]', '["[::1]:4290", "127.0.0.1:0"]', '["[::ffff:127.0.0.1]:4290"]']
        self.agree("listen.address", good, ['"127.0.0.1:1"', '["localhost:1"]', '[":1"]', '["127.0.0.1"]', '["::1"]', "[1]"])
        good = ['["127.0.0.1:4291"]', '["unix:/run/a b.sock"]', '["[::1]:4291"]']
        self.agree("admin.address", good, ['["unix:a"]', '["/run/a.sock"]', '["127.0.0.1"]'])
        good = ["[]", '["10.0.0.0/8"]', '["::1"]', '["fd00::/8", "::ffff:10.0.0.0/104"]']
        self.agree("listen.clients", good, ['["a.example"]', '["10.0.0.0/x"]', '"10.0.0.0/8"'])
        self.agree("egress.connect_ports", ['["443"]', '["1024 - 65535"]'], ["[443]", '["x"]', '["1-"]', '["1-2-3"]'])

    def test_words_numbers_and_switches(self):
        self.agree("defaults.mode", ['"off"'], ['"Off"', '""', "false"])
        self.agree("defaults.tls.min_version", ['"1.2"', '"1.3"'], ["1.2", '"1.1"'])
        self.agree("limits.max_keys", ["1", "10000000", "0x10"], ["0", "10000001", "-1", "1.5", '"1"'])
        self.agree("defaults.cooldown.growth", ["2", "2.0", "1.5"], ['"2"', "true"])
        self.agree("defaults.signals.statuses", ["[429]", "[429, 420]"], ["429", '["429"]', "[99]", "[600]"])
        self.agree("listen.via", ["true", "false"], ["1", '"true"'])

    def test_names_paths_and_headers(self):
        self.agree("listen.name", ['"edge-7.a_b"', json.dumps("a" * 64)], ['"7"', '""', '"a b"', json.dumps("a" * 65)])
        self.agree("intercept.ca_dir", ['"/a"'], ['"a"', '""', '"./a"'])
        self.agree("defaults.answer.headers", ["{}", '{ "X-A" = "b c" }'], ["[]", '{ "X-A" = 1 }', '{ "X-A" = "é" }'])
        self.agree("defaults.tls.expected_san", ['["DNS:a", "URI:spiffe://{host}"]'], ['["a"]', '["dns:a"]'])
        self.agree("upstream.proxy", ['"http://a.example"', '"SOCKS5H://a.example:1"'], ['"a.example:1"', "1"])


if __name__ == "__main__":
    unittest.main()
