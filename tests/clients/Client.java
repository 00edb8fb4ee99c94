// java.net.http.HttpClient; run as `java Client.java`. The orders and answers are described in lines.py.

import java.io.BufferedReader;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.UncheckedIOException;
import java.net.InetSocketAddress;
import java.net.ProxySelector;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.MessageDigest;
import java.security.cert.CertificateFactory;
import java.time.Duration;
import java.util.HexFormat;
import java.util.concurrent.SubmissionPublisher;
import java.util.zip.GZIPInputStream;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

public class Client {
    static final BufferedReader ORDERS = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));

    public static void main(String[] arguments) throws Exception {
        URI proxy = URI.create(System.getenv("http_proxy"));
        HttpClient client = HttpClient.newBuilder()
            .proxy(ProxySelector.of(new InetSocketAddress(proxy.getHost(), proxy.getPort())))
            .followRedirects(HttpClient.Redirect.NORMAL)
            .connectTimeout(Duration.ofSeconds(20))
            .sslContext(trusting(System.getenv("SSL_CERT_FILE")))
            .build();
        for (String line = ORDERS.readLine(); line != null; line = ORDERS.readLine()) {
            String[] order = line.split("\t");
            try {
                System.out.println(perform(client, order[0], order[1], order.length > 2 ? Path.of(order[2]) : null));
            } catch (Exception error) {
                System.out.println("error\t" + error.toString().replaceAll("\\s+", " "));
            }
            System.out.flush();
        }
        System.exit(0);
    }

    static String perform(HttpClient client, String kind, String url, Path file) throws Exception {
        // The JDK also ends a tunnel so long after the request that opened it, whatever the tunnel carries by then.
        HttpRequest.Builder request = HttpRequest.newBuilder(URI.create(url)).timeout(Duration.ofMinutes(10));
        switch (kind) {
            case "put" -> request.PUT(BodyPublishers.ofFile(file));
            case "chunked" -> request.PUT(BodyPublishers.ofInputStream(() -> open(file)));
            case "send" -> request.PUT(pieces());
            default -> request.GET();
        }
        var answer = client.send(request.build(), BodyHandlers.ofInputStream());
        boolean gzip = answer.headers().firstValue("content-encoding").orElse("").equals("gzip");
        MessageDigest digest = MessageDigest.getInstance("SHA-256");
        long size = 0;
        try (InputStream raw = answer.body(); InputStream body = gzip && !kind.equals("raw") ? new GZIPInputStream(raw) : raw) {
            byte[] block = new byte[1 << 16];
            for (int n = body.read(block); n >= 0; n = body.read(block)) {
                digest.update(block, 0, n);
                size += n;
                if (kind.equals("stream")) {
                    new String(block, 0, n, StandardCharsets.UTF_8).lines().forEach(each -> System.out.println("piece\t" + each));
                    System.out.flush();
                }
            }
        }
        StringBuilder said = new StringBuilder("answer\t" + answer.statusCode());
        said.append('\t').append(HexFormat.of().formatHex(digest.digest())).append('\t').append(size);
        answer.headers().map().forEach((name, values) -> values.forEach(value -> said.append('\t').append(name + ":" + value)));
        return said.toString();
    }

    static InputStream open(Path file) {
        try {
            return new FileInputStream(file.toFile());
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }

    static SSLContext trusting(String file) throws Exception {
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null, null);
        try (InputStream pem = new FileInputStream(file)) {
            int n = 0;
            for (var each : CertificateFactory.getInstance("X.509").generateCertificates(pem)) {
                store.setCertificateEntry("ca" + n++, each);
            }
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(store);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, trust.getTrustManagers(), null);
        return context;
    }

    /** The body of `send`, line by line as it comes in. From an `InputStream` that blocks the JDK sends late. */
    static BodyPublisher pieces() {
        return BodyPublishers.fromPublisher(subscriber -> {
            var lines = new SubmissionPublisher<ByteBuffer>();
            lines.subscribe(subscriber);
            new Thread(() -> {
                try (lines) {
                    for (String line = ORDERS.readLine(); !line.equals("end"); line = ORDERS.readLine()) {
                        lines.submit(ByteBuffer.wrap((line.split("\t")[1] + "\n").getBytes(StandardCharsets.UTF_8)));
                    }
                } catch (IOException error) {
                    lines.closeExceptionally(error);
                }
            }).start();
        });
    }
}
