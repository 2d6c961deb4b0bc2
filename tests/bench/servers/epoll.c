/*
 * Lesson 16's server in C, call for call: what it is measured against.
 *
 *     cc -O2 -o epoll epoll.c && ./epoll [--udp]
 *
 * It ends with its standard input.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { EVENTS = 512, BUFFER = 256 * 1024, LARGEST = 64 * 1024, BATCH = 64, CLIENTS = 64 * 1024 };

static int epoll;
/* What send(2) did not take, by descriptor. */
static struct { char *data, *rest; size_t size; } unsent[CLIENTS];
static char buffer[BUFFER];

static void die(const char *call) {
  perror(call);
  exit(1);
}

static void watch(int how, int fd, unsigned events) {
  struct epoll_event event = { .events = events, .data.fd = fd };
  if (epoll_ctl(epoll, how, fd, &event) < 0) die("epoll_ctl");
}

static void hang_up(int fd) {
  free(unsent[fd].data);
  unsent[fd].data = NULL;
  close(fd);
}

static void accept_clients(int listener) {
  int fd;
  while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
    if (fd < CLIENTS) watch(EPOLL_CTL_ADD, fd, EPOLLIN);
    else close(fd);
  }
}

static void read_client(int fd) {
  ssize_t count = recv(fd, buffer, BUFFER, 0);
  if (count < 0 && errno == EAGAIN) return;
  if (count <= 0) return hang_up(fd);
  ssize_t sent = send(fd, buffer, count, MSG_NOSIGNAL);
  if (sent < 0 && errno != EAGAIN) return hang_up(fd);
  if (sent == count) return;
  if (sent < 0) sent = 0;
  unsent[fd].size = count - sent;
  unsent[fd].data = unsent[fd].rest = malloc(count - sent);
  if (unsent[fd].data == NULL) die("malloc");
  memcpy(unsent[fd].data, buffer + sent, count - sent);
  watch(EPOLL_CTL_MOD, fd, EPOLLOUT);
}

static void write_client(int fd) {
  ssize_t sent = send(fd, unsent[fd].rest, unsent[fd].size, MSG_NOSIGNAL);
  if (sent < 0 && errno == EAGAIN) return;
  if (sent < 0) return hang_up(fd);
  unsent[fd].rest += sent;
  unsent[fd].size -= sent;
  if (unsent[fd].size > 0) return;
  free(unsent[fd].data);
  unsent[fd].data = NULL;
  watch(EPOLL_CTL_MOD, fd, EPOLLIN);
}

static void echo_datagrams(int socket) {
  static char data[BATCH][LARGEST];
  static struct sockaddr_in names[BATCH];
  static struct iovec parts[BATCH];
  static struct mmsghdr messages[BATCH];
  for (int i = 0; i < BATCH; i++) {
    parts[i] = (struct iovec) { data[i], LARGEST };
    messages[i].msg_hdr = (struct msghdr) {
      .msg_name = &names[i], .msg_namelen = sizeof names[i],
      .msg_iov = &parts[i], .msg_iovlen = 1,
    };
  }
  int count = recvmmsg(socket, messages, BATCH, MSG_DONTWAIT, NULL);
  for (int i = 0; i < count; i++) parts[i].iov_len = messages[i].msg_len;
  for (int done = 0; done < count;) {
    int sent = sendmmsg(socket, messages + done, count - done, 0);
    done += sent > 0 ? sent : 1;
  }
}

int main(int argc, char **argv) {
  int udp = argc > 1 && strcmp(argv[1], "--udp") == 0;
  int on = 1;
  struct sockaddr_in name = {
    .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
  };
  socklen_t length = sizeof name;

  int listener = socket(AF_INET, SOCK_CLOEXEC | (udp ? SOCK_DGRAM : SOCK_STREAM | SOCK_NONBLOCK), 0);
  if (listener < 0) die("socket");
  if (!udp) {
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  }
  if (bind(listener, (struct sockaddr *) &name, length) < 0) die("bind");
  if (!udp && listen(listener, 4096) < 0) die("listen");
  if (getsockname(listener, (struct sockaddr *) &name, &length) < 0) die("getsockname");
  printf("listening on 127.0.0.1:%d\n", ntohs(name.sin_port));
  fflush(stdout);

  epoll = epoll_create1(EPOLL_CLOEXEC);
  if (epoll < 0) die("epoll_create1");
  watch(EPOLL_CTL_ADD, listener, EPOLLIN);
  watch(EPOLL_CTL_ADD, STDIN_FILENO, EPOLLIN);
  static struct epoll_event events[EVENTS];
  for (;;) {
    int count = epoll_wait(epoll, events, EVENTS, -1);
    for (int i = 0; i < count; i++) {
      int fd = events[i].data.fd;
      if (fd == STDIN_FILENO) return 0;
      if (fd == listener) udp ? echo_datagrams(fd) : accept_clients(fd);
      else if (unsent[fd].data == NULL) read_client(fd);
      else write_client(fd);
    }
  }
}
