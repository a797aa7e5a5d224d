/* A fast embeddings server for benchmarks: it costs so little CPU that the client is what is measured.

   cc -O2 -o server server.c -lm && ./server [--latency MS] [--dimensions D] [--port P] [--no-base64]
   cc -O2 -DTLS -o server server.c -lm -lssl -lcrypto && ./server --tls CERT KEY [...]

The second one speaks TLS with a certificate chain and a key, each a PEM file; it needs OpenSSL's headers (Debian:
libssl-dev) and no other program. Sessions are resumed and ciphers are chosen as OpenSSL does by default.

One thread, epoll, HTTP/1.1 with keep-alive on 127.0.0.1. The first line of its output is the port and the last
number of every vector. It ends on SIGTERM and when its input ends, that is also when its parent is gone, and then
writes what GET /stats would have answered.

POST to a path that ends in /embeddings is answered in OpenAI's form ("encoding_format": "base64" too; with --no-base64
it is ignored, as by many gateways), POST to a path that ends in /text-embedding/text-embedding in DashScope's. An answer
leaves exactly --latency milliseconds after its request has arrived whole. Requests that one connection sends ahead wait
for each other.

All vectors are the same text, made once: D numbers of 17 digits. Only the first number differs: it is the first run of
up to 7 digits in the text, as 0.<7 digits>, so a client can see from round(vector[0] * 1e7) whose vector it has (also
as float32), and from the last number that it has all of it. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#ifdef TLS
#include <openssl/err.h>
#include <openssl/ssl.h>
#else
typedef void SSL;
#endif

enum { EVENTS = 512, CHUNK = 256 << 10, RECORD = 16 << 10, MAX_BODY = 256 << 20, MAX_HEAD = 64 << 10, IOVECS = 1000 };
enum { IDS = 10000000 };

typedef struct connection {
    int fd;
    SSL *tls;
    char *in; /* bytes that have come and are not answered yet */
    size_t in_length, in_room;
    char *own; /* the parts of an answer that are this answer's alone: head, slots of the vectors, tail */
    size_t own_room;
    struct iovec *out; /* the answer: own parts and shared vectors in turn */
    size_t out_room, out_count, out_at;
    int64_t due;
    int busy, gone, ends, wants_out; /* an answer is under way; to be freed; close after it; EPOLLOUT is set */
    struct connection *next;         /* in the queue of answers that wait for their time */
} connection;

static int poller, listener, timer, latency_us, dimensions = 1024, base64_known = 1;
static connection *first_waiting, *last_waiting, *grave; /* one latency for all: the queue is in order of time */
static char *json_tail, *base64_tail;                    /* a vector without its slot */
static size_t json_tail_length, base64_tail_length;
static float second_value, third_value;
static double last_value;
static volatile sig_atomic_t asked_to_stop;
static uint32_t *ids;
static size_t ids_room;

static struct {
    long requests, texts, bytes_out, connections, refused;
    int in_flight, max_in_flight;
    int64_t first, last, late, latest; /* ns */
} seen;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void *grown(void *memory, size_t *room, size_t needed, size_t size) {
    if (needed <= *room) return memory;
    *room = needed * 2;
    if (!(memory = realloc(memory, *room * size))) die("realloc");
    return memory;
}

static int64_t now(clockid_t clock) {
    struct timespec at;
    clock_gettime(clock, &at);
    return at.tv_sec * 1000000000LL + at.tv_nsec;
}

static char *stats(void) {
    static char text[1024];
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    snprintf(text, sizeof text,
             "{\"requests\": %ld, \"texts\": %ld, \"bytes_out\": %ld, \"connections\": %ld, \"refused\": %ld, "
             "\"max_in_flight\": %d, \"cpu_s\": %.6f, \"span_s\": %.6f, \"late_ms_mean\": %.4f, \"late_ms_max\": %.4f, "
             "\"dimensions\": %d, \"last_value\": %.17f}\n",
             seen.requests, seen.texts, seen.bytes_out, seen.connections, seen.refused, seen.max_in_flight,
             now(CLOCK_PROCESS_CPUTIME_ID) / 1e9, (seen.last - seen.first) / 1e9,
             seen.requests ? seen.late / 1e6 / seen.requests : 0.0, seen.latest / 1e6, dimensions, last_value);
    return text;
}

/* ── the vectors ─────────────────────────────────────────────────────────────────────────────── */

static void base64(char *to, const unsigned char *from, size_t length) {
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t at = 0; at < length; at += 3) {
        uint32_t three = from[at] << 16 | (at + 1 < length ? from[at + 1] << 8 : 0) | (at + 2 < length ? from[at + 2] : 0);
        for (int sixth = 0; sixth < 4; sixth++) *to++ = letters[three >> (18 - 6 * sixth) & 63];
        if (at + 1 >= length) to[-2] = '=';
        if (at + 2 >= length) to[-1] = '=';
    }
    *to = 0;
}

static void make_vectors(void) {
    float *values = calloc(dimensions, sizeof *values);
    char *at = json_tail = malloc(dimensions * 32 + 8);
    base64_tail = malloc(dimensions * 6 + 16);
    double unit = 1 / sqrt(dimensions);
    uint64_t state = 42;
    for (int place = 1; place < dimensions; place++) {
        state = state * 6364136223846793005ULL + 1442695040888963407ULL;
        double value = ((double)(state >> 11) / (1ULL << 53) * 2 - 1) * 1.7 * unit;
        at += sprintf(at, ",%.17f", value);
        values[place] = (float)(last_value = value);
    }
    json_tail_length = at - json_tail;
    second_value = values[1], third_value = values[2];
    /* The slot of base64 is three numbers, because 12 bytes are 16 whole letters. */
    base64(base64_tail, (unsigned char *)(values + 3), (dimensions - 3) * sizeof *values);
    base64_tail_length = strlen(base64_tail);
    free(values);
}

/* ── the connections ─────────────────────────────────────────────────────────────────────────── */

static void watch(connection *each, int wants_out) {
    if (each->wants_out == wants_out) return;
    each->wants_out = wants_out;
    struct epoll_event event = {.events = EPOLLIN | (wants_out ? EPOLLOUT : 0), .data.ptr = each};
    epoll_ctl(poller, EPOLL_CTL_MOD, each->fd, &event);
}

static void bury(connection *each) {
    each->next = grave;
    grave = each;
}

/* ── TLS: the same errno, EAGAIN, says that the socket is not ready ──────────────────────────────── */

#ifdef TLS
static SSL_CTX *tls;

static void die_of_tls(const char *what) {
    fprintf(stderr, "%s: ", what);
    ERR_print_errors_fp(stderr);
    exit(1);
}

static void prepare_tls(const char *certificate, const char *key) {
    tls = SSL_CTX_new(TLS_server_method());
    if (!tls || SSL_CTX_use_certificate_chain_file(tls, certificate) != 1) die_of_tls(certificate);
    if (SSL_CTX_use_PrivateKey_file(tls, key, SSL_FILETYPE_PEM) != 1) die_of_tls(key);
    /* What is sent again after a wait is the same bytes, gathered again in the same place. */
    SSL_CTX_set_mode(tls, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_read_ahead(tls, 1);
}

static void begin_tls(connection *each) {
    if (!tls) return;
    if (!(each->tls = SSL_new(tls)) || !SSL_set_fd(each->tls, each->fd)) die_of_tls("SSL_new");
    SSL_set_accept_state(each->tls);
}

/* Says that the connection ends, where it still can be said, and does not wait for the answer. */
static void end_tls(connection *each) {
    if (!each->tls) return;
    if (each->ends && SSL_is_init_finished(each->tls)) SSL_shutdown(each->tls);
    SSL_free(each->tls);
    each->tls = NULL;
}

/* What read and write would have returned. A handshake or a new key may have a read wait until it can write. */
static ssize_t as_of_socket(connection *each, int result, int writes) {
    if (result > 0) return result;
    int error = SSL_get_error(each->tls, result);
    if (error == SSL_ERROR_WANT_WRITE) return watch(each, 1), errno = EAGAIN, -1;
    if (error == SSL_ERROR_WANT_READ) {
        if (writes) watch(each, 0);
        return errno = EAGAIN, -1;
    }
    if (error == SSL_ERROR_ZERO_RETURN && !writes) return 0;
    each->ends = 0; /* nothing more can be said */
    return errno = EPIPE, -1;
}

static ssize_t read_tls(connection *each, char *to, size_t room) {
    ERR_clear_error();
    return as_of_socket(each, SSL_read(each->tls, to, room < INT_MAX ? (int)room : INT_MAX), 0);
}

/* Sends one full record: the parts of an answer are short and long in turn, and each record costs a call. */
static ssize_t write_tls(connection *each) {
    static char record[RECORD];
    size_t length = 0;
    for (size_t at = each->out_at; at < each->out_count && length < RECORD; at++) {
        size_t part = each->out[at].iov_len < RECORD - length ? each->out[at].iov_len : RECORD - length;
        memcpy(record + length, each->out[at].iov_base, part);
        length += part;
    }
    ERR_clear_error();
    return as_of_socket(each, SSL_write(each->tls, record, (int)length), 1);
}

static int has_more(connection *each) { return each->tls && SSL_has_pending(each->tls); }
#else
static void prepare_tls(const char *certificate, const char *key) {
    (void)certificate, (void)key;
    fputs("--tls needs a server that was compiled with -DTLS -lssl -lcrypto\n", stderr);
    exit(2);
}

static void begin_tls(connection *each) { (void)each; }
static void end_tls(connection *each) { (void)each; }
static ssize_t read_tls(connection *each, char *to, size_t room) { return (void)each, (void)to, (void)room, -1; }
static ssize_t write_tls(connection *each) { return (void)each, -1; }
static int has_more(connection *each) { return (void)each, 0; }
#endif

static void part(connection *each) {
    if (each->gone) return;
    each->gone = 1;
    end_tls(each);
    close(each->fd);
    /* An answer that waits is buried when its time comes; until then the queue still points at it. */
    if (each->busy != 1) bury(each);
    if (each->busy) seen.in_flight--;
}

static void free_the_gone(void) {
    while (grave) {
        connection *each = grave;
        grave = each->next;
        free(each->in), free(each->own), free(each->out), free(each);
    }
}

static void arm(void) {
    struct itimerspec at = {0};
    if (first_waiting) {
        at.it_value.tv_sec = first_waiting->due / 1000000000LL;
        at.it_value.tv_nsec = first_waiting->due % 1000000000LL;
    }
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
}

static void add_part(connection *each, const char *from, size_t length) {
    each->out = grown(each->out, &each->out_room, each->out_count + 1, sizeof *each->out);
    each->out[each->out_count++] = (struct iovec){(void *)from, length};
}

/* ── requests ────────────────────────────────────────────────────────────────────────────────── */

static const char *find(const char *from, const char *end, const char *what) {
    return from < end ? memmem(from, end - from, what, strlen(what)) : NULL;
}

static const char *header(const char *from, const char *end, const char *name) {
    size_t length = strlen(name);
    for (const char *line = from; line && line + length < end; line = find(line, end, "\r\n")) {
        if (*line == '\r') line += 2;
        if (line + length < end && !strncasecmp(line, name, length)) return line + length;
    }
    return NULL;
}

/* The strings of the input, as their ids; -1 where it is no input. A quote inside a string stands behind a backslash. */
static long read_input(const char *body, const char *end, const char *key, long *bytes) {
    const char *at = find(body, end, key);
    if (!at) return -1;
    at += strlen(key);
    while (at < end && (*at == ' ' || *at == ':')) at++;
    int many = at < end && *at == '[';
    if (many) at++;
    long count = 0;
    for (; at < end && *at != ']' && (many || !count); at++) {
        if (*at != '"') {
            if (*at == ' ' || *at == ',' || *at == '\n') continue;
            return -1;
        }
        const char *text = ++at;
        for (;; at++) {
            if (!(at = memchr(at, '"', end - at))) return -1;
            const char *slash = at;
            while (slash > text && slash[-1] == '\\') slash--;
            if ((at - slash) % 2 == 0) break;
        }
        *bytes += at - text;
        uint32_t id = 0;
        while (text < at && (*text < '0' || *text > '9')) text++;
        while (text < at && *text >= '0' && *text <= '9') id = (id * 10 + (uint32_t)(*text++ - '0')) % IDS;
        ids = grown(ids, &ids_room, count + 1, sizeof *ids);
        ids[count++] = id;
    }
    return count;
}

static void answer_plainly(connection *each, const char *status, const char *body) {
    each->own = grown(each->own, &each->own_room, strlen(body) + 256, 1);
    int length = sprintf(each->own, "HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s", status,
                         strlen(body), body);
    add_part(each, each->own, length);
}

static void refuse(connection *each, const char *status, const char *message) {
    char body[256];
    snprintf(body, sizeof body, "{\"error\": {\"message\": \"%s\", \"code\": \"invalid_request_error\"}}", message);
    seen.refused++;
    answer_plainly(each, status, body);
}

static void answer_vectors(connection *each, int native, int as_base64, long count, long tokens) {
    static const char *heads[] = {"{\"object\":\"list\",\"model\":\"bench\",\"data\":[", "{\"output\":{\"embeddings\":["};
    each->own = grown(each->own, &each->own_room, 1024 + (size_t)count * 128, 1);
    char *head = each->own, *at = each->own + 256; /* the head is written last: only then its length is known */
    const char *tail = as_base64 ? base64_tail : json_tail;
    size_t tail_length = as_base64 ? base64_tail_length : json_tail_length, length = 0;
    add_part(each, head, 0);
    at = stpcpy(at, heads[native]);
    char *begin = each->own + 256;
    for (long place = 0; place < count; place++) {
        if (native)
            at += sprintf(at, "%s{\"text_index\":%ld,\"embedding\":[", place ? "," : "", place);
        else
            at += sprintf(at, "%s{\"object\":\"embedding\",\"index\":%ld,\"embedding\":%c", place ? "," : "", place,
                          as_base64 ? '"' : '[');
        if (as_base64) {
            float slot[3] = {(float)(ids[place] / 1e7), second_value, third_value};
            base64(at, (unsigned char *)slot, sizeof slot);
            at += 16;
        } else
            at += sprintf(at, "0.%07u0000000000", ids[place]);
        add_part(each, begin, at - begin), add_part(each, tail, tail_length);
        length += at - begin + tail_length;
        begin = at;
        at = stpcpy(at, as_base64 ? "\"}" : "]}");
    }
    if (native)
        at += sprintf(at, "]},\"usage\":{\"total_tokens\":%ld},\"request_id\":\"bench-%ld\"}", tokens, seen.requests);
    else
        at += sprintf(at, "],\"usage\":{\"prompt_tokens\":%ld,\"total_tokens\":%ld}}", tokens, tokens);
    add_part(each, begin, at - begin);
    length += at - begin;
    each->out[0].iov_len = sprintf(
        head, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n", length);
}

static int ends_with(const char *from, const char *end, const char *what) {
    size_t length = strlen(what);
    return (size_t)(end - from) >= length && !memcmp(end - length, what, length);
}

/* Makes the answer to a request that is there whole. The return value says whether it has to wait for its time. */
static int answer(connection *each, const char *head, const char *body, const char *end) {
    const char *path = memchr(head, ' ', body - head), *stop = path ? memchr(path + 1, ' ', body - path - 1) : NULL;
    each->out_count = each->out_at = 0;
    if (!stop) return refuse(each, "400 Bad Request", "no request line"), 0;
    path++;
    if (!strncmp(head, "GET ", 4) && ends_with(path, stop, "/stats")) return answer_plainly(each, "200 OK", stats()), 0;
    int native = ends_with(path, stop, "/text-embedding/text-embedding");
    if (strncmp(head, "POST ", 5) || !(native || ends_with(path, stop, "/embeddings")))
        return refuse(each, "404 Not Found", "POST to a path that ends in /embeddings, or GET /stats"), 0;
    const char *asked = find(body, end, native ? "\"dimension\":" : "\"dimensions\":");
    if (asked && atoi(strchr(asked, ':') + 1) != dimensions)
        return refuse(each, "400 Bad Request", "this server was started with other dimensions"), 0;
    long bytes = 0, count = read_input(body, end, native ? "\"texts\"" : "\"input\"", &bytes);
    if (count < 1) return refuse(each, "400 Bad Request", "input is a text or a list of texts"), 0;
    const char *format = base64_known && !native ? find(body, end, "\"encoding_format\":") : NULL;
    int as_base64 = format && find(format, end - format > 40 ? format + 40 : end, "\"base64\"");
    answer_vectors(each, native, as_base64, count, bytes / 4 + 1);
    seen.texts += count;
    return 1;
}

static void take_requests(connection *each);

static void send_on(connection *each) {
    while (each->out_at < each->out_count) {
        size_t count = each->out_count - each->out_at;
        ssize_t sent = each->tls ? write_tls(each)
                                 : writev(each->fd, each->out + each->out_at, count < IOVECS ? count : IOVECS);
        if (sent < 0) {
            if (errno == EINTR) continue;
            if (errno != EAGAIN) return part(each);
            if (!each->tls) watch(each, 1); /* TLS has said already what it waits for */
            return;
        }
        seen.bytes_out += sent;
        for (; each->out_at < each->out_count && (size_t)sent >= each->out[each->out_at].iov_len; each->out_at++)
            sent -= each->out[each->out_at].iov_len;
        if (sent) {
            struct iovec *begun = each->out + each->out_at;
            *begun = (struct iovec){(char *)begun->iov_base + sent, begun->iov_len - sent};
        }
    }
    each->busy = 0;
    seen.in_flight--;
    seen.last = now(CLOCK_MONOTONIC);
    if (each->ends) return part(each);
    watch(each, 0);
}

/* Takes what has come, one request after the other, until one has to wait or is not there whole. */
static void take_requests(connection *each) {
    while (!each->busy && !each->gone && each->in_length) {
        const char *head = each->in, *end = each->in + each->in_length, *body = find(head, end, "\r\n\r\n");
        if (!body) {
            if (each->in_length > MAX_HEAD) part(each);
            return;
        }
        const char *told = header(head, body, "content-length:"), *keep = header(head, body, "connection:");
        size_t length = told ? strtoul(told, NULL, 10) : 0;
        body += 4;
        if (length > MAX_BODY || header(head, body, "transfer-encoding:")) {
            refuse(each, "411 Length Required", "say Content-Length");
            each->busy = 2, each->ends = 1, seen.in_flight++;
            return send_on(each);
        }
        if ((size_t)(end - body) < length) return;
        while (keep && *keep == ' ') keep++;
        each->ends = keep && !strncasecmp(keep, "close", 5);
        int waits = answer(each, head, body, body + length);
        each->in_length = end - (body + length);
        memmove(each->in, body + length, each->in_length);
        if (++seen.in_flight > seen.max_in_flight) seen.max_in_flight = seen.in_flight;
        if (waits) {
            int64_t arrived = now(CLOCK_MONOTONIC);
            if (!seen.requests++) seen.first = arrived;
            each->due = arrived + latency_us * 1000LL;
        }
        if (waits && latency_us) {
            each->busy = 1, each->next = NULL;
            if (first_waiting)
                last_waiting->next = each;
            else
                first_waiting = each, arm();
            last_waiting = each;
        } else
            each->busy = 2, send_on(each);
    }
}

static void receive(connection *each) {
    for (;;) {
        each->in = grown(each->in, &each->in_room, each->in_length + CHUNK / 16, 1);
        size_t room = each->in_room - each->in_length;
        char *to = each->in + each->in_length;
        ssize_t got = each->tls ? read_tls(each, to, room) : recv(each->fd, to, room, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0 && errno == EAGAIN) break;
        if (got <= 0) return part(each);
        each->in_length += got;
        if ((size_t)got < room && !has_more(each)) break;
    }
    take_requests(each);
}

static void answer_the_due(void) {
    int64_t at = now(CLOCK_MONOTONIC);
    while (first_waiting && first_waiting->due <= at) {
        connection *each = first_waiting;
        first_waiting = each->next;
        if (each->gone) {
            bury(each);
            continue;
        }
        int64_t late = at - each->due;
        seen.late += late;
        if (late > seen.latest) seen.latest = late;
        each->busy = 2;
        send_on(each);
        take_requests(each);
        at = now(CLOCK_MONOTONIC);
    }
    arm();
}

static void welcome(void) {
    int fd, yes = 1, room = 1 << 20;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof room); /* a whole answer leaves in one call */
        connection *each = calloc(1, sizeof *each);
        each->fd = fd;
        begin_tls(each);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = each};
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
        seen.connections++;
    }
}

static void stop(int signal) {
    (void)signal;
    asked_to_stop = 1;
}

int main(int count, char **words) {
    double latency_ms = 0;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    for (int place = 1; place < count; place++) {
        const char *value = place + 1 < count ? words[place + 1] : "";
        if (!strcmp(words[place], "--no-base64")) base64_known = 0;
        else if (!strcmp(words[place], "--tls") && place + 2 < count) prepare_tls(value, words[place + 2]), place += 2;
        else if (!strcmp(words[place], "--latency")) latency_ms = atof(value), place++;
        else if (!strcmp(words[place], "--dimensions")) dimensions = atoi(value), place++;
        else if (!strcmp(words[place], "--port")) address.sin_port = htons(atoi(value)), place++;
        else return fprintf(stderr, "unknown: %s\n", words[place]), 2;
    }
    if (dimensions < 4 || latency_ms < 0) return fprintf(stderr, "dimensions from 4, latency from 0\n"), 2;
    latency_us = (int)lround(latency_ms * 1000);
    make_vectors();
    signal(SIGPIPE, SIG_IGN);
    struct sigaction stopping = {.sa_handler = stop};
    sigaction(SIGTERM, &stopping, NULL), sigaction(SIGINT, &stopping, NULL);

    int yes = 1;
    socklen_t size = sizeof address;
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 4096)) die("listen");
    getsockname(listener, (struct sockaddr *)&address, &size);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    poller = epoll_create1(EPOLL_CLOEXEC);
    int *special[] = {&listener, &timer, &(int){0}};
    for (int place = 0; place < 3; place++) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = special[place]};
        /* An input that is a file or /dev/null cannot be watched and never ends anything. */
        if (epoll_ctl(poller, EPOLL_CTL_ADD, *special[place], &event) && place < 2) die("epoll_ctl");
    }
    printf("%d %.17f\n", ntohs(address.sin_port), last_value);
    fflush(stdout);

    while (!asked_to_stop) {
        struct epoll_event events[EVENTS];
        int ready = epoll_wait(poller, events, EVENTS, -1);
        for (int place = 0; place < ready; place++) {
            void *what = events[place].data.ptr;
            char nothing[64];
            if (what == special[0])
                welcome();
            else if (what == special[1])
                answer_the_due();
            else if (what == special[2]) {
                if (read(0, nothing, sizeof nothing) <= 0) asked_to_stop = 1;
            } else {
                connection *each = what;
                int reads = events[place].events & (EPOLLIN | EPOLLHUP | EPOLLERR);
                int writes = events[place].events & EPOLLOUT;
                if (each->tls) reads = writes = 1; /* each may have waited for the other */
                if (!each->gone && writes) {
                    if (each->busy == 2)
                        send_on(each), take_requests(each);
                    else
                        watch(each, 0);
                }
                if (!each->gone && reads) receive(each);
            }
        }
        free_the_gone();
    }
    fputs(stats(), stdout);
    return 0;
}
