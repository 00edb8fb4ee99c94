"""What an operator copies out of this repository works: README, image, Compose, Kubernetes, systemd.

No container engine is needed: what the image would start is started here with the binary of the working tree, with the
command line and the environment read out of the Dockerfile and the manifests. `tests/run` runs this; by hand:
`cargo build && .venv/bin/python3 tests/packaging.py`.
"""

import contextlib
import http.server
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
import tomllib
import unittest

import requests
import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
BINARY = os.environ.get("HOLDOFF_BIN", str(ROOT / "target/debug/holdoff"))
DEADLINE = 20.0

README = (ROOT / "README.md").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()
MANIFEST = tomllib.loads((ROOT / "Cargo.toml").read_text())
COMPOSE = ROOT / "config/compose.yaml"
POD = ROOT / "config/kubernetes/sidecar.yaml"
UNIT = ROOT / "config/systemd/holdoff.service"

# No setting and no proxy of the machine the tests run on.
CLEAN = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith("HOLDOFF_") and not name.lower().endswith("_proxy")
}


def free_ports(count):
    """Ports nobody listens on; the kernel does not hand the same one out twice in a row."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def direct():
    """A session that ignores the environment's proxies."""
    session = requests.Session()
    session.trust_env = False
    return session


def instruction(name):
    """The JSON form of a Dockerfile instruction of the last stage, such as ENTRYPOINT ["/holdoff"]."""
    found = re.findall(rf"^{name}\b.*?(\[.*\])\s*$", DOCKERFILE, re.MULTILINE)
    if not found:
        raise AssertionError(f"expected `{name} [...]` in the Dockerfile, found none")
    return json.loads(found[-1])


def with_binary(command):
    """The image's command line, started with the binary of the working tree."""
    if command[0] != "/holdoff":
        raise AssertionError(f"expected the image to start `/holdoff`, found `{command[0]}`")
    return [BINARY, *command[1:]]


def sidecar():
    """The holdoff container of the pod."""
    pod = yaml.safe_load(POD.read_text())["spec"]["template"]["spec"]
    return next(each for each in pod["initContainers"] if each["name"] == "holdoff")


class Running:
    """holdoff as the image starts it; killed at the end whatever happens."""

    def __init__(self, environment, *more):
        self.command = with_binary(instruction("ENTRYPOINT") + instruction("CMD")) + list(more)
        self.environment = {**CLEAN, **environment}

    def __enter__(self):
        self.output = tempfile.TemporaryFile(mode="w+")
        self.process = subprocess.Popen(
            self.command, env=self.environment, stdout=self.output, stderr=subprocess.STDOUT
        )
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.output.close()

    def said(self):
        self.output.seek(0)
        return self.output.read()

    def wait_for(self, url):
        """Polls until `url` answers 200."""
        end = time.monotonic() + DEADLINE
        last = "nothing"
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise AssertionError(f"holdoff ended with {self.process.returncode}:\n{self.said()}")
            try:
                answer = direct().get(url, timeout=2)
                if answer.status_code == 200:
                    return answer
                last = f"{answer.status_code} {answer.text}"
            except requests.RequestException as error:
                last = str(error)
            time.sleep(0.02)
        raise AssertionError(f"{url}: expected 200, last saw {last}; holdoff said:\n{self.said()}")

    def terminate(self):
        """SIGTERM, as a container engine stops it; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE)


class Peer(http.server.BaseHTTPRequestHandler):
    """A peer that always answers."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def a_peer():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Peer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()


class Readme(unittest.TestCase):
    def blocks(self, language):
        return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)

    def test_shows_the_compose_and_kubernetes_files_as_they_are(self):
        for path in (COMPOSE, POD):
            self.assertIn(path.read_text(), self.blocks("yaml"), f"a yaml block of README.md that equals {path}")

    def test_every_toml_block_is_accepted_by_check(self):
        blocks = self.blocks("toml")
        self.assertTrue(blocks)
        for block in blocks:
            with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
                file.write(block)
                file.flush()
                done = subprocess.run([BINARY, "check", "--config", file.name], env=CLEAN, capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, f"{block}\n{done.stdout}{done.stderr}")

    def test_names_only_commands_flags_and_variables_that_exist(self):
        sources = [README, DOCKERFILE, COMPOSE.read_text(), POD.read_text(), UNIT.read_text()]
        text = "\n".join(sources)
        top = subprocess.run([BINARY, "--help"], env=CLEAN, capture_output=True, text=True, check=True).stdout
        commands = set(re.findall(r"^  ([a-z]+)\b", top, re.MULTILINE))
        named = set(re.findall(r"`(?:\$ )?(?:/?holdoff) ([a-z]+)\b", text))
        shell = "".join(self.blocks("sh"))
        named |= set(re.findall(r"^(?:docker exec \S+ )?/?holdoff ([a-z]+)\b", shell, re.MULTILINE))
        self.assertTrue(named)
        self.assertLessEqual(named, commands)
        help_text = top + "".join(
            subprocess.run([BINARY, each, "--help"], env=CLEAN, capture_output=True, text=True).stdout
            for each in sorted(commands - {"help"})
        )
        help_text = " ".join(help_text.split())  # it is wrapped to the width of the terminal
        for variable in sorted(set(re.findall(r"HOLDOFF_[A-Z_]*[A-Z]", text))):
            self.assertIn(f"[env: {variable}", help_text, f"`{variable}` in a help text")
        ours = re.findall(r"^/?holdoff .*", shell, re.MULTILINE) + re.findall(r"`(--[a-z-]+)`", README)
        for flag in sorted({flag for line in ours for flag in re.findall(r"--[a-z][a-z-]*", line.split(" -- ")[0])}):
            self.assertIn(f"{flag} ", help_text, f"`{flag}` in a help text")

    def test_names_only_metrics_that_exist(self):
        named = set(re.findall(r"\bholdoff_[a-z_]+[a-z]", README))
        self.assertTrue(named)
        sources = "".join(path.read_text() for path in (ROOT / "src/metrics").rglob("*.rs"))
        for name in sorted(named):
            self.assertTrue(f'"{name}"' in sources or f'"{name.removeprefix("holdoff_")}"' in sources, name)

    def test_links_lead_somewhere(self):
        for target in re.findall(r"\]\(([^)#]+)\)", README):
            if "://" not in target:
                self.assertTrue((ROOT / target).exists(), target)


class Image(unittest.TestCase):
    def test_is_built_with_a_toolchain_that_can_build_us(self):
        have = re.search(r"^ARG RUST_VERSION=([\d.]+)$", DOCKERFILE, re.MULTILINE)[1]
        need = MANIFEST["package"]["rust-version"]
        self.assertGreaterEqual([int(n) for n in have.split(".")], [int(n) for n in need.split(".")])

    def test_the_build_context_holds_every_file_the_build_reads(self):
        context = {
            line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
        }
        for name in context:
            if name != "benches":
                self.assertTrue((ROOT / name).exists(), name)
        read = {ROOT / "Cargo.toml", ROOT / "Cargo.lock", ROOT / MANIFEST["package"]["readme"]}
        read |= {ROOT / name for name in re.findall(r"/holdoff/(LICENSE-\w+)", DOCKERFILE)}
        for source in (ROOT / "src").rglob("*.rs"):
            for name in re.findall(r'include_(?:str|bytes)!\(\s*"([^"]+)"', source.read_text()):
                read.add((source.parent / name).resolve())
        for table in ("bin", "test", "bench", "example"):
            read |= {ROOT / each["path"] for each in MANIFEST.get(table, []) if "path" in each}
        for path in read:
            self.assertIn(path.relative_to(ROOT).parts[0], context, path)

    def test_runs_as_the_user_the_pod_asks_for(self):
        self.assertRegex(DOCKERFILE, r"(?m)^USER 65532:65532$")
        self.assertEqual(sidecar()["securityContext"]["runAsUser"], 65532)

    def test_recipes_use_the_version_that_is_built(self):
        image = f"holdoff:{MANIFEST['package']['version']}"
        self.assertEqual(yaml.safe_load(COMPOSE.read_text())["services"]["holdoff"]["image"], image)
        self.assertEqual(sidecar()["image"], image)
        self.assertEqual(set(re.findall(r"\bholdoff:\d+\.\d+\.\d+", README)), {image})

    def test_published_port_serves_the_clients_it_names_and_the_health_check_passes(self):
        proxy, admin, metrics = free_ports(3)
        environment = {
            "HOLDOFF_LISTEN": f"0.0.0.0:{proxy}",
            "HOLDOFF_CLIENTS": "172.16.0.0/12,127.0.0.0/8",
            "HOLDOFF_ADMIN": f"127.0.0.1:{admin}",
            "HOLDOFF_METRICS": f"0.0.0.0:{metrics}",
        }
        self.check_container(environment, proxy, metrics)

    def test_takes_the_same_addresses_from_flags(self):
        proxy, admin, metrics = free_ports(3)
        flags = ["--listen", f"0.0.0.0:{proxy}", "--clients", "127.0.0.0/8", "--admin", f"127.0.0.1:{admin}"]
        flags += ["--metrics", f"0.0.0.0:{metrics}"]
        with Running({}, *flags) as holdoff:
            holdoff.wait_for(f"http://127.0.0.1:{metrics}/readyz")

    def check_container(self, environment, proxy, metrics):
        with a_peer() as peer, Running(environment) as holdoff:
            holdoff.wait_for(f"http://127.0.0.1:{metrics}/readyz")
            health = subprocess.run(
                with_binary(instruction("HEALTHCHECK")),
                env=holdoff.environment,
                capture_output=True,
                text=True,
                timeout=DEADLINE,
            )
            self.assertEqual(health.returncode, 0, health.stdout + health.stderr)
            # Off loopback, `[egress] private = "auto"` keeps clients out of the private networks behind us.
            answer = direct().get(peer, proxies={"http": f"http://127.0.0.1:{proxy}"}, timeout=DEADLINE)
            self.assertEqual(answer.status_code, 403, answer.text)
            self.assertEqual(holdoff.terminate(), 0, holdoff.said())

    def test_reaches_private_peers_when_the_mounted_file_of_the_recipe_says_so(self):
        proxy, admin = free_ports(2)
        recipe = next(block for block in Readme.blocks(self, "toml") if "[egress]" in block)
        environment = {
            "HOLDOFF_LISTEN": f"0.0.0.0:{proxy}",
            "HOLDOFF_CLIENTS": "127.0.0.0/8",
            "HOLDOFF_ADMIN": f"127.0.0.1:{admin}",
        }
        with tempfile.NamedTemporaryFile("w", suffix=".toml") as file, a_peer() as peer:
            file.write(recipe)
            file.flush()
            with Running({**environment, "HOLDOFF_CONFIG": file.name}) as holdoff:
                holdoff.wait_for(f"http://127.0.0.1:{admin}/readyz")
                answer = direct().get(peer, proxies={"http": f"http://127.0.0.1:{proxy}"}, timeout=DEADLINE)
                self.assertEqual((answer.status_code, answer.text), (200, "hello"))

    def test_refuses_to_be_an_open_relay_and_names_the_mend(self):
        with Running({"HOLDOFF_LISTEN": "0.0.0.0:0"}) as holdoff:
            self.assertEqual(holdoff.process.wait(DEADLINE), 2, holdoff.said())
            self.assertIn("clients", holdoff.said())

    def test_health_check_fails_when_nothing_listens(self):
        (port,) = free_ports(1)
        environment = {**CLEAN, "HOLDOFF_ADMIN": f"127.0.0.1:{port}"}
        health = subprocess.run(
            with_binary(instruction("HEALTHCHECK")), env=environment, capture_output=True, timeout=DEADLINE
        )
        self.assertEqual(health.returncode, 1, health.stderr)


class Compose(unittest.TestCase):
    def test_is_read_by_the_real_tool(self):
        done = subprocess.run(
            ["docker-compose", "-f", str(COMPOSE), "config", "-q"], env=CLEAN, capture_output=True, text=True
        )
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_its_environment_starts_holdoff(self):
        proxy, admin, metrics = free_ports(3)
        environment = dict(yaml.safe_load(COMPOSE.read_text())["services"]["holdoff"]["environment"])
        self.assertEqual(environment["HOLDOFF_LISTEN"], "0.0.0.0:4290")
        self.assertEqual(environment["HOLDOFF_METRICS"], "0.0.0.0:4292")
        # The same, on ports that are free here.
        environment["HOLDOFF_LISTEN"] = f"0.0.0.0:{proxy}"
        environment["HOLDOFF_METRICS"] = f"0.0.0.0:{metrics}"
        environment["HOLDOFF_ADMIN"] = f"127.0.0.1:{admin}"
        with Running(environment) as holdoff:
            families = holdoff.wait_for(f"http://127.0.0.1:{metrics}/metrics").text
            self.assertIn("holdoff_", families)


class Pod(unittest.TestCase):
    def test_passes_the_schema_of_the_oldest_and_the_newest_kubernetes(self):
        for version in ("1.29", "1.37"):
            done = subprocess.run(
                ["kubernetes-validate", "--strict", "-k", version, str(POD)], env=CLEAN, capture_output=True, text=True
            )
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_probes_are_answered_while_the_proxy_stays_on_loopback(self):
        container = sidecar()
        self.assertEqual(container["restartPolicy"], "Always")
        environment = {each["name"]: each["value"] for each in container["env"]}
        self.assertNotIn("HOLDOFF_LISTEN", environment)
        self.assertNotIn("HOLDOFF_ADMIN", environment)
        self.assertEqual(environment["HOLDOFF_METRICS"], "0.0.0.0:4292")
        proxy, admin, metrics = free_ports(3)
        environment["HOLDOFF_METRICS"] = f"0.0.0.0:{metrics}"
        environment["HOLDOFF_LISTEN"] = f"127.0.0.1:{proxy}"
        environment["HOLDOFF_ADMIN"] = f"127.0.0.1:{admin}"
        probes = [container[name]["httpGet"] for name in ("startupProbe", "readinessProbe", "livenessProbe")]
        with a_peer() as peer, Running(environment) as holdoff:
            for probe in probes:
                self.assertEqual(probe["port"], 4292)
                holdoff.wait_for(f"http://127.0.0.1:{metrics}{probe['path']}")
            # On loopback private peers are allowed: the node could reach them itself.
            answer = direct().get(peer, proxies={"http": f"http://127.0.0.1:{proxy}"}, timeout=DEADLINE)
            self.assertEqual((answer.status_code, answer.text), (200, "hello"))
            # The outside listener has nothing but GET.
            refused = direct().delete(f"http://127.0.0.1:{metrics}/api/v1/cooldowns", timeout=DEADLINE)
            self.assertIn(refused.status_code, (404, 405))
            self.assertEqual(holdoff.terminate(), 0, holdoff.said())


class Unit(unittest.TestCase):
    def test_is_accepted_by_systemd(self):
        text = UNIT.read_text()
        self.assertIn("ExecStart=/usr/local/bin/holdoff run\n", text)
        with tempfile.TemporaryDirectory() as folder:
            copy = pathlib.Path(folder) / "holdoff.service"
            copy.write_text(text.replace("/usr/local/bin/holdoff", BINARY))
            done = subprocess.run(["systemd-analyze", "verify", str(copy)], env=CLEAN, capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stderr.strip()), (0, ""))


if __name__ == "__main__":
    unittest.main()
