--- Talaria in Neovim: the life of the server, commands, keys.
local ghost = require("talaria.ghost")
local server = require("talaria.server")
local steps = require("talaria.steps")

local api = vim.api
local M = {}

local LATEST = vim.fn.has("nvim-0.12") == 1
local CRASHES = 5 -- in a row, after which the server is left alone
local CALM = 180 -- seconds of running after which a crash is the first again

---@class talaria.Config
---@field cmd? string[] the command that starts the server; by itself it is looked for
---@field options? table<string, any> the server's; `talaria lsp --help` lists them
---@field keys? table<string, string|false>|false by what they do; `false` is none
---@field native? boolean whether `vim.lsp.inline_completion` asks and draws, where there is one
---@field root_markers? string[]

---@type talaria.Config
M.config = {
  options = { status = true, languages = { "python" } },
  keys = {
    accept = "<Tab>",
    accept_word = "<M-Right>",
    accept_line = "<M-Down>",
    next = "<M-]>",
    previous = "<M-[>",
    dismiss = "<C-]>",
    suggest = "<M-\\>",
  },
  native = true,
  root_markers = { "pyproject.toml", "setup.py", ".git" },
}

---What keys in insert mode do: a function, its argument, what `:map` says.
---@type table<string, [fun(argument: any): boolean?, any, string]>
local ACTIONS = {
  accept = { ghost.accept, nil, "accept the suggestion" },
  accept_word = { ghost.accept, "word", "accept its next word" },
  accept_line = { ghost.accept, "line", "accept its next line" },
  next = { ghost.cycle, 1, "next suggestion" },
  previous = { ghost.cycle, -1, "previous suggestion" },
  dismiss = { ghost.dismiss, nil, "dismiss the suggestion" },
  suggest = { ghost.suggest, nil, "ask for suggestions" },
}

---The server's commands by their names in `:Talaria`, with what they are about.
local COMMANDS = {
  fill = { "fillFunction", "place" },
  here = { "fillHere", "place" },
  rewrite = { "rewrite", "place" },
  next = { "nextCandidate", "file" },
  trace = { "showTrace", "file" },
}

local states = {} ---@type table<integer, string> of each client
local off = {} ---@type table<string, true?> languages that are switched off; "" is all
local crashes, began, leaving = 0, 0, false

---@param message string
---@param level? integer
local function tell(message, level)
  message = "Talaria: " .. message
  vim.notify(message, level or vim.log.levels.INFO)
end

---Whether Neovim's own inline completion asks and draws.
---@return boolean
function M.native() return M.config.native and vim.lsp.inline_completion ~= nil end

---For a status line: what Talaria is about in this buffer.
---@return string
function M.status()
  local buf = api.nvim_get_current_buf()
  local client = server.clients(buf)[1]
  local state = off[vim.bo[buf].filetype] and "off" or client and states[client.id]
  return client and "Talaria: " .. (state or "loading") or ""
end

-- Commands

---The cursor, or the lines or the selection that a command was given.
---@param encoding "utf-8"|"utf-16"|"utf-32"
---@param given vim.api.keyset.create_user_command.command_args
local function place(encoding, given)
  local params = vim.lsp.util.make_position_params(0, encoding)
  if given.range == 0 then return { uri = params.textDocument.uri, position = params.position } end
  local from, to = api.nvim_buf_get_mark(0, "<"), api.nvim_buf_get_mark(0, ">")
  if vim.fn.visualmode() == "V" or from[1] ~= given.line1 or to[1] ~= given.line2 then
    from, to = { given.line1, 0 }, { given.line2, vim.v.maxcol }
  end
  local last = api.nvim_buf_get_lines(0, to[1] - 1, to[1], false)[1]
  to[2] = math.min(to[2], math.max(0, #last - 1))
  local range = vim.lsp.util.make_given_range_params(from, to, 0, encoding).range
  return { uri = params.textDocument.uri, range = range }
end

---Switch suggestions off or on; a server that is started later is told.
---@param language? string all of them if nil
function M.toggle(language)
  local key = language or ""
  off[key] = not off[key] or nil
  for _, client in ipairs(server.clients()) do
    server.execute(client, "toggle", { key })
    vim.iter(pairs(client.attached_buffers)):each(ghost.clear)
  end
  local where = language and " in " .. language or ""
  tell(("suggestions%s are %s"):format(where, off[key] and "off" or "on"))
end

---@param given vim.api.keyset.create_user_command.command_args
local function command(given)
  local name, argument = given.fargs[1], given.fargs[2]
  local client, wanted = server.clients(api.nvim_get_current_buf())[1], COMMANDS[name]
  if name == "toggle" or name == "restart" then
    M[name](argument)
  elseif not wanted then
    tell("no such command: " .. name, vim.log.levels.ERROR)
  elseif not client then
    tell("no server in this buffer; see :checkhealth talaria", vim.log.levels.WARN)
  else
    local about = wanted[2] == "place" and place(client.offset_encoding, given)
    server.execute(client, wanted[1], { about or vim.uri_from_bufnr(0) }, function(err)
      if err then tell(err.message, vim.log.levels.ERROR) end
    end)
  end
end

---@param start string
---@param line string
local function complete(start, line)
  local words = vim.list_extend({ "toggle", "restart" }, vim.tbl_keys(COMMANDS))
  words = line:match("toggle%s") and M.config.options.languages or words
  return vim.fn.matchfuzzy(words, start)
end

-- The server's life

---Start the server. What Neovim says when one crashes does not fit on most screens, so that it
---is told of an orderly end; `ended` says what is to be said.
---@param dispatchers vim.lsp.rpc.Dispatchers
---@param root? string
local function run(dispatchers, root)
  began = vim.uv.now()
  local on_exit = dispatchers.on_exit
  dispatchers.on_exit = function(code, signal)
    vim.schedule(function() M.ended(code, signal) end)
    on_exit(0, 0)
  end
  return vim.lsp.rpc.start(assert(server.find(M.config.cmd, root)), dispatchers)
end

---Find a buffer's project, and go on if there is a server.
---@param buf integer
---@param go_on fun(root?: string)
local function with_root(buf, go_on)
  local root = vim.fs.root(buf, M.config.root_markers)
  if server.find(M.config.cmd, root) then return go_on(root) end
  -- Short, as each message here: what does not fit on its line has to be confirmed.
  vim.notify_once("Talaria: no server found; see :checkhealth talaria", vim.log.levels.WARN)
end

---What `vim.lsp.config` and `vim.lsp.start` are given.
---@return vim.lsp.Config
local function configuration()
  return {
    name = "talaria",
    filetypes = M.config.options.languages,
    init_options = M.config.options,
    root_dir = with_root,
    cmd = function(dispatchers, now) return run(dispatchers, now.root_dir) end,
    capabilities = vim.tbl_deep_extend("force", vim.lsp.protocol.make_client_capabilities(), {
      -- Before 0.12 Neovim knows nothing of them; this plugin does.
      textDocument = { inlineCompletion = { dynamicRegistration = false } },
    }),
    handlers = {
      ["talaria/step"] = steps.draw,
      ["talaria/status"] = function(_, params, context)
        states[context.client_id] = params.state
        api.nvim_exec_autocmds("User", { pattern = "TalariaStatus", modeline = false })
        vim.cmd.redrawstatus({ bang = true })
      end,
      ["window/showMessage"] = function(_, params)
        vim.notify(params.message, 5 - params.type) -- the protocol counts downwards
      end,
    },
    on_init = function(client)
      for language in pairs(off) do
        server.execute(client, "toggle", { language })
      end
      if M.native() then ghost.lead_native(client) end
    end,
    on_attach = function(client, buf)
      ghost.attach(
        client,
        buf,
        M.native(),
        function() return not (off[""] or off[vim.bo[buf].filetype]) end
      )
    end,
  }
end

---Start the server for all buffers that want it and have none.
local function start()
  if LATEST then return vim.lsp.enable("talaria") end
  for _, buf in ipairs(api.nvim_list_bufs()) do
    local served = vim.tbl_contains(M.config.options.languages, vim.bo[buf].filetype)
    if served and vim.bo[buf].buftype == "" and api.nvim_buf_is_loaded(buf) then
      with_root(buf, function(root)
        local config = configuration()
        config.cmd = function(dispatchers) return run(dispatchers, root) end
        config.root_dir = root
        vim.lsp.start(config, {
          bufnr = buf,
          -- By itself 0.10 starts another one for each file outside of projects.
          reuse_client = function(client)
            local same = client.name == "talaria" and client.config.root_dir == root
            return same and not server.call(client, "is_stopped")
          end,
        })
      end)
    end
  end
end

---A server ended: start it again where it was not meant to, later each time.
---@param code integer
---@param signal integer
function M.ended(code, signal)
  -- 15 is how Neovim ends one that takes too long to end.
  if leaving or signal == 15 or (code == 0 and signal == 0) then return end
  crashes = vim.uv.now() - began > 1000 * CALM and 1 or crashes + 1
  local how = signal > 0 and "signal " .. signal or "exit code " .. code
  if crashes >= CRASHES then
    local message = "the server ended %d times; see :checkhealth talaria"
    return tell(message:format(crashes), vim.log.levels.ERROR)
  end
  local seconds = 2 ^ (crashes - 1)
  tell(("the server ended (%s); it starts again in %d s"):format(how, seconds))
  vim.defer_fn(start, 1000 * seconds)
end

---End the server and start it anew.
function M.restart()
  crashes = 0
  for _, client in ipairs(server.clients()) do
    server.call(client, "stop", true)
  end
  vim.defer_fn(start, 500)
end

-- Beginning

---Do now what a key did before.
---@param key string
---@param before table<string, any> as of `maparg()`
local function fall_through(key, before)
  local keys = before.rhs or key
  if before.expr == 1 then
    keys = before.callback and before.callback() or api.nvim_eval(before.rhs)
  elseif before.callback then
    return before.callback()
  end
  api.nvim_feedkeys(vim.keycode(keys), before.noremap == 0 and "im" or "in", false)
end

local function set_keys()
  for name, key in pairs(M.config.keys or {}) do
    local act, argument, what = unpack(ACTIONS[name] or error("no key " .. name), 1, 3)
    if key then
      local before = vim.fn.maparg(key, "i", false, true)
      vim.keymap.set("i", key, function()
        if act(argument) == false then fall_through(key, before) end
      end, { desc = "Talaria: " .. what })
    end
  end
end

local function set_colours()
  for name, like in pairs({
    TalariaGhost = LATEST and "ComplHint" or "Comment",
    TalariaStep = "Comment",
    TalariaFresh = "String",
    TalariaMask = "NonText",
  }) do
    api.nvim_set_hl(0, name, { link = like, default = true })
  end
end

---Begin. Nothing happens before this is called.
---@param config? talaria.Config
function M.setup(config)
  M.config = vim.tbl_deep_extend("force", M.config, config or {})
  local group = api.nvim_create_augroup("talaria", {})
  local function on(event, callback)
    api.nvim_create_autocmd(event, { group = group, callback = callback })
  end
  on("VimLeavePre", function() leaving = true end)
  on("LspDetach", function(event) ghost.detach(event.buf, event.data.client_id) end)
  on("LspRequest", function(event)
    local request = event.data.request
    if request.method == "workspace/executeCommand" and request.type ~= "pending" then
      steps.clear(event.buf)
    end
  end)
  on("ColorScheme", set_colours)
  set_colours()
  set_keys()
  api.nvim_create_user_command("Talaria", command, {
    nargs = "+",
    range = true,
    complete = complete,
    desc = "Fill in code; :help talaria-commands",
  })
  if LATEST then
    vim.lsp.config("talaria", configuration())
  else
    on("FileType", start)
  end
  start()
end

for name in pairs({ accept = 1, cycle = 1, dismiss = 1, suggest = 1 }) do
  M[name] = ghost[name]
end

return M
