"""A chat server on asyncio, which has a buffer of its own for each client."""
import asyncio
import re
import sys

room = {}


def tell(own, text):
    for name, writer in list(room.items()):
        if name != own and not writer.is_closing():
            writer.write(f"{text}\r\n".encode())
            if writer.transport.get_write_buffer_size() > 1 << 20:
                writer.transport.abort()


async def chat(reader, writer):
    name = None
    try:
        writer.write(b"Name?\r\n")
        line = (await reader.readline()).decode(errors="replace").strip()
        if not re.fullmatch("[A-Za-z0-9]{1,20}", line) or line in room:
            writer.write(b"No.\r\n")
            return
        tell(line, f"* {line} joins")
        writer.write(f"* Here: {' '.join(room)}\r\n".encode())
        name = line
        room[name] = writer
        while data := await reader.readline():
            tell(name, f"[{name}] {data.decode(errors='replace').rstrip()}")
    except (ConnectionError, ValueError):
        pass
    finally:
        if name is not None:
            del room[name]
            tell(name, f"* {name} leaves")
        writer.close()


async def main():
    server = await asyncio.start_server(chat, "127.0.0.1", 0)
    print(f"listening on 127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    # It ends with its standard input.
    await asyncio.to_thread(sys.stdin.read)


asyncio.run(main())
